# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The layouts of an export, one class for each.

All layouts but Parquet have their images in the folder ``image``, so several
layouts of one export share them. The same rows give the same bytes.
"""

import hashlib
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets.parse_records import RecordError, read_record
from ..prompts import IMAGE_HERE, Turn
from ..utils.errors import printable
from .export_images import write_file
from .ledger import LedgerImage
from .selection import SelectedImage

IMAGE_FOLDER = 'image'
_PARQUET_ROWS = 64  # rows with their images in memory


class ExportRow(NamedTuple):
    """A row of an export.

    Attributes:
        name: Of the image without suffix: its number in the ledger.
        selected: The image and its text.
        question: A question that the text answers.
        data: The bytes of the JPEG file.
    """

    name: str
    selected: SelectedImage
    question: str
    data: bytes

    @property
    def file_name(self) -> str:
        """Name of the image file."""
        return f'{self.name}.jpg'


class Layout(ABC):
    """A layout: collects rows and writes one file.

    Args:
        folder: The folder of the export.

    Attributes:
        file: Name of the file in that folder.
        num_rows: Number of rows.
        num_omitted: Number of rows that the layout has no use for.
    """

    file: str

    def __init__(self, folder: Path) -> None:
        self.path = folder / self.file
        self.num_omitted = 0
        self._records: list[dict[str, Any]] = []

    @property
    def num_rows(self) -> int:
        """Number of rows of the file."""
        return len(self._records)

    @abstractmethod
    def record(self, row: ExportRow) -> dict[str, Any] | None:
        """Return the record of a row; None if the layout has no use for it.

        Raises:
            RecordError: The layout cannot represent the text.
        """

    def add(self, row: ExportRow, record: dict[str, Any] | None) -> None:
        """Add a row with its record, of :meth:`record`."""
        if record is None:
            self.num_omitted += 1
        else:
            self._records.append(record)

    def close(self) -> None:
        """Write the file."""
        self._write(_json(self._records))

    def _write(self, data: bytes) -> None:
        write_file(self.path, data)


class CcSbuAlign(Layout):
    """``cc_sbu_align`` of the official project: captions without questions."""

    file = 'filter_cap.json'

    def record(self, row: ExportRow) -> dict[str, Any]:
        """Return the record of a row."""
        record = dict(image_id=row.name, caption=row.selected.text)
        return _checked(record, row, '')

    def close(self) -> None:
        """Write the file."""
        self._write(_json(dict(annotations=self._records)))


class Conversations(Layout):
    """The conversations of MMPretrain, in one marked text."""

    file = 'conversations.json'

    def record(self, row: ExportRow) -> dict[str, Any]:
        """Return the record of a row."""
        question = f'<Img>{IMAGE_HERE}</Img> {row.question}'
        text = f'###Ask: {question} ###Answer: {row.selected.text}'
        record = dict(id=row.name, conversation=text)
        return _checked(record, row, f'{IMAGE_HERE} {row.question}')


class Llava(Layout):
    """The JSON of LLaVA."""

    file = 'llava.json'

    def record(self, row: ExportRow) -> dict[str, Any]:
        """Return the record of a row."""
        messages = [
            {'from': 'human', 'value': f'<image>\n{row.question}'},
            {'from': 'gpt', 'value': row.selected.text},
        ]
        record = dict(id=row.name, image=row.file_name, conversations=messages)
        return _checked(record, row, f'{IMAGE_HERE} {row.question}')


class Preference(Layout):
    """Preference pairs as TRL reads them for DPO, one in each line.

    The accepted text is ``chosen``, the model's draft ``rejected``. Rows
    whose text is the draft are no pair.
    """

    file = 'preference.jsonl'

    def record(self, row: ExportRow) -> dict[str, Any] | None:
        """Return the record of a row."""
        selected = row.selected
        draft = selected.draft.strip()
        if not draft or draft == selected.text.strip():
            return None
        question = [dict(type='image'), dict(type='text', text=row.question)]
        return dict(
            images=[f'{IMAGE_FOLDER}/{row.file_name}'],
            prompt=[dict(role='user', content=question)],
            chosen=_answer(selected.text),
            rejected=_answer(draft),
        )

    def close(self) -> None:
        """Write the file."""
        self._write(b''.join(_line(record) for record in self._records))


class Parquet(Layout):
    """A Parquet table with the images in it, as ``datasets`` reads them."""

    file = 'train.parquet'

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        require_pyarrow()
        import pyarrow
        from pyarrow import parquet

        text = pyarrow.string()
        features: dict[str, dict[str, str]] = dict(image=dict(_type='Image'))
        fields = [
            (
                'image',
                pyarrow.struct([('bytes', pyarrow.binary()), ('path', text)]),
            )
        ]
        for name in ('image_id', 'question', 'caption', 'draft', 'decision'):
            features[name] = dict(dtype='string', _type='Value')
            fields.append((name, text))
        for name in ('source', 'licence'):
            features[name] = dict(dtype='string', _type='Value')
            fields.append((name, text))
        # datasets then decodes the column "image" as images
        info = json.dumps(dict(info=dict(features=features)))
        self._schema = pyarrow.schema(fields, dict(huggingface=info))
        self._writer = parquet.ParquetWriter(self.path, self._schema)
        self._num_written = 0

    @property
    def num_rows(self) -> int:
        """Number of rows of the file."""
        return self._num_written + len(self._records)

    def record(self, row: ExportRow) -> dict[str, Any]:
        """Return the record of a row."""
        selected = row.selected
        return dict(
            image=dict(bytes=row.data, path=row.file_name),
            image_id=row.name,
            question=row.question,
            caption=selected.text,
            draft=selected.draft,
            decision=selected.decision,
            source=_detail(selected.image, 'source'),
            licence=_detail(selected.image, 'licence'),
        )

    def add(self, row: ExportRow, record: dict[str, Any] | None) -> None:
        """Add a row; write a group of rows if enough are in memory."""
        super().add(row, record)
        if len(self._records) >= _PARQUET_ROWS:
            self._flush()

    def close(self) -> None:
        """Write the end of the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow

        if self._records:
            self._writer.write_table(
                pyarrow.Table.from_pylist(self._records, self._schema)
            )
        self._num_written += len(self._records)
        self._records.clear()


LAYOUTS: dict[str, type[Layout]] = {
    'cc_sbu_align': CcSbuAlign,
    'conversations': Conversations,
    'llava': Llava,
    'parquet': Parquet,
    'preference': Preference,
}


def require_pyarrow() -> None:
    """Refuse Parquet without pyarrow.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    if importlib.util.find_spec('pyarrow') is None:
        raise ModuleNotFoundError(
            "the layout parquet needs pyarrow; pip install 'minigpt4"
            "[parquet]', or choose another layout."
        )


def draw_question(questions: Sequence[str], image: LedgerImage) -> str:
    """Draw a question for an image by its digest, so always the same one."""
    drawn = hashlib.sha256(f'question {image.digest}'.encode()).digest()
    return questions[int.from_bytes(drawn[:8], 'big') % len(questions)]


def _checked(
    record: dict[str, Any], row: ExportRow, question: str
) -> dict[str, Any]:
    """Refuse a record that stage 2 reads as another text or image.

    Raises:
        RecordError: It does.
    """
    content = read_record(record, 0).content
    text = row.selected.text.strip()
    found = [
        Turn(t.question, (t.answer or '').strip()) for t in content['turns']
    ]
    if found != [Turn(question, text)]:
        answer = found[0].answer or ''
        raise RecordError(
            f'would be read as {len(found)} turns, the first with the answer '
            f'{printable(answer[:60])!r}; remove marks such as ###Ask: from '
            'the text'
        )
    return record


def _answer(text: str) -> list[dict[str, Any]]:
    content = [dict(type='text', text=text)]
    return [dict(role='assistant', content=content)]


def _detail(image: LedgerImage, name: str) -> str | None:
    value = image.details.get(name)
    return None if value is None else str(value)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode() + b'\n'


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b'\n'
