# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 2: images with conversations, from a JSON file."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from mmengine.dataset import Compose
from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..prompts import Turn
from ..registry import DATASETS
from .images import SampleError

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
# questions and answers of MMPretrain's conversation JSON, and upstream's own
_MARKS = re.compile(r'###\s?(Ask|Answer|Human|Assistant|问|答)[：:] ?')
_ASKS = ('Ask', 'Human', '问')
_WRAPPED = re.compile(r'<Img>(<ImageHere>)</Img>\s?')
_LOUD = 20  # bad samples that are named one by one


@DATASETS.register_module()
class InstructionDataset(Dataset):
    """Reads conversations about images in any of four formats.

    - ``cc_sbu_align`` (official): ``{"annotations": [{"image_id": "52",
      "caption": "..."}]}`` or the bare list; no question stands in it.
    - MMPretrain: ``[{"id": "52", "conversation": "###Ask: <Img><ImageHere>
      </Img> ... ###Answer: ..."}]``.
    - LLaVA: ``[{"image": "52.jpg", "conversations": [{"from": "human",
      "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}]}]``, with
      several turns, a list of images, or none.
    - flat: ``[{"image": ..., "question": ..., "answer": ...}]``; other keys
      stay in the record (for metrics).

    Args:
        ann_file: The JSON file, below ``data_root`` unless absolute.
        data_root: Folder of the data.
        image_folder: Folder of the images, below ``data_root``.
        pipeline: Transforms.
        limit: Use the first so many records only.
        keep_answers: Whether answers stay in the turns (training); else they
            move to the record's ``answer`` (evaluation).

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It holds no record, or an unknown format.
    """

    metainfo: dict = {}

    def __init__(
        self,
        ann_file: str,
        data_root: str = '',
        image_folder: str = 'image',
        pipeline: Sequence[dict] = (),
        limit: int | None = None,
        keep_answers: bool = True,
    ) -> None:
        path = Path(data_root) / ann_file
        self.image_folder = Path(data_root) / image_folder
        self.keep_answers = keep_answers
        self.pipeline = Compose(pipeline)
        self.bad = 0
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} does not exist; expected the JSON file of the '
                'records; set data_root and ann_file of the dataset.'
            )
        try:
            data = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as error:
            raise ValueError(f'{path} is no JSON file ({error}).') from error
        if isinstance(data, dict):
            data = data.get('annotations')
        if not data or not isinstance(data, list):
            raise ValueError(
                f'{path} holds no records; expected a list of records, or '
                '{"annotations": [...]}.'
            )
        self.records = [
            self._parse(item, i, path) for i, item in enumerate(data[:limit])
        ]

    def _parse(self, item: dict, number: int, path: Path) -> dict:
        """One record of any format."""
        if not isinstance(item, dict):
            raise ValueError(
                f'record {number} of {path} is {type(item)}; '
                'expected an object.'
            )
        if 'conversations' in item:
            turns = _llava_turns(item['conversations'])
        elif 'conversation' in item:
            turns = _marked_turns(item['conversation'])
        elif 'caption' in item:
            turns = [Turn('', item['caption'])]
        elif 'question' in item:
            turns = [Turn(item['question'], item.get('answer'))]
        else:
            raise ValueError(
                f'record {number} of {path} has the keys {sorted(item)}; '
                'expected caption, conversation, conversations or question.'
            )
        images = item.get('image', item.get('image_id', item.get('id')))
        named = 'image' in item or 'image_id' in item
        if not named and not _mentions_image(item, turns):
            images = None
        if images is None:
            images = []
        elif not isinstance(images, list):
            images = [images]
        known = ('conversations', 'conversation', 'caption', 'image')
        record = {k: v for k, v in item.items() if k not in known}
        record.setdefault('id', item.get('image_id', number))
        if not self.keep_answers:
            record['answer'] = turns[-1].answer
            turns[-1] = Turn(turns[-1].question)
        return {**record, 'images': [str(i) for i in images], 'turns': turns}

    def _find(self, name: str) -> str:
        """The file of an image's name, with or without its suffix."""
        path = self.image_folder / name
        if path.suffix.lower() in _SUFFIXES:
            return str(path)
        for suffix in _SUFFIXES:
            if (found := path.with_name(path.name + suffix)).is_file():
                return str(found)
        return str(path)

    @property
    def num_images(self) -> int:
        """Different images of all records."""
        return len(self._image_names())

    def _image_names(self) -> list[str]:
        images = (record['images'] for record in self.records)
        return list(dict.fromkeys(chain.from_iterable(images)))

    def image_sources(
        self, share: int = 0, shares: int = 1
    ) -> Iterator[tuple[str, str]]:
        """Name and file of every ``shares``-th image, from ``share`` on."""
        for name in self._image_names()[share::shares]:
            yield name, self._find(name)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: 'int | tuple[int, int]'):
        """A sample; None where it cannot be used (it is named and counted).

        Args:
            key: Index, or index and place in the stream of training samples.
        """
        index, draw = key if isinstance(key, tuple) else (key, key)
        record = dict(self.records[index], draw=draw)
        record['images'] = [self._find(name) for name in record['images']]
        try:
            if self.keep_answers and not all(
                (turn.answer or '').strip() for turn in record['turns']
            ):
                raise SampleError(
                    f'record {index} ({record["id"]}) has an empty answer; '
                    'expected some words to learn.'
                )
            return self.pipeline(record)
        except SampleError as error:
            self.bad += 1
            if self.bad <= _LOUD:
                print_log(
                    f'skipped: {error}',
                    logger='current',
                    level=logging.WARNING,
                )
            return None


def _mentions_image(item: dict, turns: list[Turn]) -> bool:
    """Whether a record that names no image has one under its ``id``."""
    return 'caption' in item or any(
        '<ImageHere>' in turn.question for turn in turns
    )


def _llava_turns(messages: Sequence[dict]) -> list[Turn]:
    speakers = [message.get('from') for message in messages]
    if not speakers or speakers != ['human', 'gpt'] * (len(speakers) // 2):
        raise ValueError(
            f'the conversations are of {speakers}; expected '
            '"human" and "gpt" by turns.'
        )
    turns = []
    for asked, answered in zip(messages[::2], messages[1::2], strict=True):
        question = asked['value'].replace('<image>', '<ImageHere>')
        question = re.sub(r'\s*<ImageHere>\s*', '<ImageHere>', question)
        turns.append(
            Turn(_space_after_images(question), answered['value'].strip())
        )
    return turns


def _marked_turns(text: str) -> list[Turn]:
    """``###Ask: ... ###Answer: ...``, as often as it stands there."""
    _, *pieces = _MARKS.split(text)
    asks = [mark in _ASKS for mark in pieces[::2]]
    parts = [part.strip() for part in pieces[1::2]]
    if not asks or asks != [True, False] * (len(asks) // 2):
        raise ValueError(
            f'the conversation {text[:60]!r} does not alternate between '
            '"###Ask: " and "###Answer: ".'
        )
    return [
        Turn(_space_after_images(_WRAPPED.sub(r'\1', question)), answer)
        for question, answer in zip(parts[::2], parts[1::2], strict=True)
    ]


def _space_after_images(question: str) -> str:
    """``<ImageHere>text`` to ``<ImageHere> text``, as upstream writes it."""
    return re.sub(r'<ImageHere>(?=[^<\s])', '<ImageHere> ', question)
