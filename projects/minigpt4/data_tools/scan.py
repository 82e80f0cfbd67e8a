# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a data set once and collect what a check needs to know.

Threads decode the images. An image that several records use is decoded once.
"""

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .data_items import DataItem, ImageRef, iterate
from .find_data import DataPart
from .image_facts import ImageFacts, measure_image
from .prompt_tokens import PromptTokens, prompt_or_error
from .statistics import Numbers, is_near_empty, main_script

TRAIN, HELD_OUT = 1, 2  # bits of a split
_QUEUED = 8  # images for each thread that are read ahead
_EXTREME_RATIO = 4.0  # the longer side by the shorter one
_TINY_SIDE = 32  # pixels


class Problem(NamedTuple):
    """Something that is wrong.

    Attributes:
        kind: A key of :data:`~.limits.KINDS`.
        name: The record or image.
        reason: What is wrong.
        number: How many records or images it concerns.
    """

    kind: str
    name: str
    reason: str
    number: int = 1


class KnownText(NamedTuple):
    """A text of the data.

    Attributes:
        splits: Bits of the splits that have it.
        records: Records that have it.
        name: The first of these records.
        start: Its first characters.
    """

    splits: int
    records: int
    name: str
    start: str


class Scan:
    """What was read.

    Args:
        prompts: Makes prompts, for their lengths; None for no lengths.
        perceptual: Whether perceptual hashes are computed.
        workers: Threads that decode images.
        num_samples: Records that are kept as examples.

    Attributes:
        num_records: Records, the invalid ones included.
        num_valid: Valid records.
        num_turns: Turns of the valid records.
        num_images: Images of all records; each use counts.
        parts: Records of each part.
        problems: What is wrong.
        images: Facts of each different image, by its key.
        refs: Where each image is, by its key.
        splits: Bits of the splits that use an image, by its key.
        texts: The different texts, by a digest.
        scripts: Records by the script of their text.
        words, characters: Lengths of the answers.
        answer_tokens, prompt_tokens: Lengths in tokens of the model.
        samples: Records drawn at random, in their order.
    """

    def __init__(
        self,
        prompts: PromptTokens | None = None,
        perceptual: bool = True,
        workers: int = 2,
        num_samples: int = 24,
    ) -> None:
        self.prompts = prompts
        self._perceptual = perceptual
        self._workers = workers
        self._num_samples = num_samples
        self.num_records = self.num_valid = 0
        self.num_turns = self.num_images = 0
        self.parts: Counter[str] = Counter()
        self.problems: list[Problem] = []
        self.images: dict[str, ImageFacts] = {}
        self.refs: dict[str, ImageRef] = {}
        self.splits: dict[str, int] = {}
        self.texts: dict[bytes, KnownText] = {}
        self.scripts: Counter[str] = Counter()
        self.words, self.characters = Numbers(), Numbers()
        self.answer_tokens, self.prompt_tokens = Numbers(), Numbers()
        self._drawn: list[tuple[int, DataItem]] = []
        self._rng = random.Random(0)

    @property
    def samples(self) -> list[DataItem]:
        """Records drawn at random, in their order."""
        return [item for _, item in sorted(self._drawn, key=lambda d: d[0])]

    def read(
        self,
        part: DataPart,
        image_folder: 'Path | None' = None,
        split: int | None = None,
        on_record: Callable[[], object] = lambda: None,
    ) -> None:
        """Read a part.

        Args:
            part: The part.
            image_folder: See :func:`~.data_items.iterate`.
            split: The split of all records; None is that of each record.
            on_record: Called after each record; an exception that it raises
                ends the reading, and what was read remains.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file of records is damaged.
        """
        pending: deque[tuple[str, Future[ImageFacts]]] = deque()

        def finish(number: int) -> None:
            while len(pending) > number:
                key, future = pending.popleft()
                self._add_facts(key, future.result())

        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for item in iterate(part, self._report, image_folder):
                    bits = split or (HELD_OUT if item.held_out else TRAIN)
                    self._add_record(item, bits)
                    for ref in self._new_images(item, bits):
                        pending.append(
                            (
                                ref.key,
                                pool.submit(
                                    measure_image, ref, self._perceptual
                                ),
                            )
                        )
                    finish(_QUEUED * self._workers)
                    on_record()
            finally:
                finish(0)

    def _report(self, kind: str, message: str) -> None:
        kind = 'skipped' if kind == 'skipped' else 'damaged'
        self.problems.append(Problem(kind, '', message))

    def _add_facts(self, key: str, facts: ImageFacts) -> None:
        self.images[key] = facts
        name = facts.name
        if facts.error is not None:
            self.problems.append(Problem('unreadable', name, facts.error))
            return
        short, long = sorted((facts.width, facts.height))
        size = f'{facts.width} x {facts.height} pixels'
        if short < _TINY_SIDE:
            self.problems.append(Problem('tiny', name, size))
        if long > _EXTREME_RATIO * short:
            self.problems.append(Problem('aspect', name, size))

    def _new_images(self, item: DataItem, bits: int) -> Iterator[ImageRef]:
        """Yield the images that no earlier record has."""
        for ref in item.images:
            self.num_images += 1
            key = ref.key
            known = self.splits.get(key, 0)
            self.splits[key] = known | bits
            if not known:
                self.refs[key] = replace(ref, data=None)
                yield ref

    def _add_record(self, item: DataItem, bits: int) -> None:
        self.num_records += 1
        self.parts[item.part] += 1
        self._draw(item)
        if item.error is not None:
            self.problems.append(Problem('invalid', item.name, item.error))
            return
        self.num_valid += 1
        if not item.turns:
            self.problems.append(
                Problem('no-text', item.name, 'it has no text')
            )
            return
        self.num_turns += len(item.turns)
        answers = [turn.answer or '' for turn in item.turns]
        for answer in answers:
            self.words.add(len(answer.split()))
            self.characters.add(len(answer))
            if is_near_empty(answer):
                self.problems.append(
                    Problem('empty', item.name, f'the text is {answer!r}')
                )
        self.scripts[main_script(' '.join(answers))] += 1
        self._add_text(item, bits)
        if self.prompts is not None:
            self._measure_prompt(item, self.prompts)

    def _add_text(self, item: DataItem, bits: int) -> None:
        parts = [f'{t.question}\0{t.answer or ""}' for t in item.turns]
        text = ' '.join('\0'.join(parts).casefold().split())
        digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
        known = self.texts.get(digest)
        if known is None:
            start = (item.turns[0].answer or item.turns[0].question)[:80]
            self.texts[digest] = KnownText(bits, 1, item.name, start)
        else:
            self.texts[digest] = known._replace(
                splits=known.splits | bits, records=known.records + 1
            )

    def _measure_prompt(self, item: DataItem, prompts: PromptTokens) -> None:
        prompt, reason = prompt_or_error(prompts, item)
        if prompt is None:
            self.problems.append(Problem('invalid', item.name, reason))
            return
        for length in prompt.answer_lengths:
            self.answer_tokens.add(length)
        self.prompt_tokens.add(prompt.length)
        if prompt.truncated:
            self.problems.append(
                Problem(
                    'truncated',
                    item.name,
                    f'an answer has {max(prompt.answer_lengths)} tokens, '
                    f'at most {prompts.max_text_length} are used',
                )
            )
        if not prompt.fits:
            self.problems.append(
                Problem(
                    'too-long',
                    item.name,
                    f'the prompt has {prompt.length} tokens, at most '
                    f'{prompts.context_length} fit into the context',
                )
            )

    def _draw(self, item: DataItem) -> None:
        """Keep a record with equal probability (reservoir sampling)."""
        if not self._num_samples:
            return
        if len(self._drawn) < self._num_samples:
            self._drawn.append((self.num_records, item))
        elif (
            place := self._rng.randrange(self.num_records)
        ) < self._num_samples:
            self._drawn[place] = (self.num_records, item)
