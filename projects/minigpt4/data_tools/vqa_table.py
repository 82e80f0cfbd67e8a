# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One table of VQAv2 and OK-VQA: the annotations, or the questions.

Source: the formats of visualqa.org/vqa_v2_teaser.html.
"""

from collections.abc import Iterator
from pathlib import Path

from ..datasets.json_stream import Entry, stream_json
from ..datasets.json_values import InvalidJson
from .question_files import VQA_ANNOTATIONS, VQA_QUESTIONS, read_content

_KINDS = dict(annotations=VQA_ANNOTATIONS, questions=VQA_QUESTIONS)
_SWAPPED = (
    '"minigpt4 eval" takes the annotations as --questions and the questions '
    'as --question-texts; "minigpt4 data import" takes the questions as '
    '--questions.'
)


class VqaTable:
    """A table in a file.

    Args:
        path: The file.
        name: ``'annotations'`` or ``'questions'``.

    Attributes:
        split: ``data_subtype`` of the file, as far as it was read; '' where
            it has none.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.split = ''

    def entries(self) -> Iterator[Entry]:
        """Yield the values of the table, which may be the whole file.

        Raises:
            ValueError: The file does not have the table, or it is empty.
            OSError: The file cannot be read.
        """
        found = False
        damage = ''
        for entry in stream_json(self.path):
            if entry.key == 'data_subtype':
                self.split = str(entry.value)
            elif entry.key is None or entry.key == self.name and entry.in_list:
                if not isinstance(entry.value, InvalidJson):
                    found = True
                elif not damage:
                    damage = entry.value.reason
                yield entry
        if not found:
            # damage ends a file of any content
            raise ValueError(
                f'{self.path} {damage}.' if damage else self._missing()
            )

    def _missing(self) -> str:
        content = read_content(self.path)
        kind, expected = content.kind, _KINDS[self.name]
        other = 'questions' if self.name == 'annotations' else 'annotations'
        if content.counts.get(other):
            return (
                f'{self.path} has "{other}" but no "{self.name}": is it the '
                f'file of the {other}? {_SWAPPED}'
            )
        found = content.describe()
        if content.counts[self.name] and self.name not in content.lists:
            found = f'has no list under "{self.name}"'
        if kind and kind != expected and not content.has_records_by_id:
            found += f' ({kind})'
        return (
            f'{self.path} {found}; expected {expected}: '
            f'{{"{self.name}": [...]}}.'
        )
