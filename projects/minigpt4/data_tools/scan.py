# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a data set once and collect what a check needs to know.

Threads decode the images. An image that several records use is decoded once.
"""

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .data_items import DataItem, ImageRef, iterate
from .find_data import DataPart
from .image_facts import ImageFacts, measure_image
from .known_images import KnownData
from .problems import Problem, Problems
from .prompt_tokens import PromptTokens, prompt_or_error
from .statistics import Numbers, is_near_empty, main_script

TRAIN, HELD_OUT = 1, 2  # bits of a split
_QUEUED = 8  # images for each thread that are read ahead
_EXTREME_RATIO = 4.0  # the longer side by the shorter one
_TINY_SIDE = 32  # pixels


class Scan:
    """What was read.

    Args:
        prompts: Makes prompts, for their lengths; None for no lengths.
        perceptual: Whether perceptual hashes are computed.
        workers: Threads that decode images.
        num_samples: Records that are kept as examples.
        compared_to: The scan of the data that these are compared to; it
            stores the images and texts of both.

    Attributes:
        num_records: Records, the invalid ones included.
        num_valid: Valid records.
        num_turns: Turns of the valid records.
        num_images: Images of all records; each use counts.
        parts: Records of each part.
        shards: Records of each shard.
        usable: Records of each shard that are valid, with a readable image.
        problems: What is wrong.
        known: The different images and texts.
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
        compared_to: 'Scan | None' = None,
    ) -> None:
        self.prompts = prompts
        self._perceptual = perceptual
        self._workers = workers
        self._num_samples = num_samples
        self.num_records = self.num_valid = 0
        self.num_turns = self.num_images = 0
        self.parts: Counter[str] = Counter()
        self.shards: Counter[str] = Counter()
        self.usable: Counter[str] = Counter()
        self.problems = Problems()
        self._own = compared_to is None
        self.known: KnownData = (
            KnownData() if compared_to is None else compared_to.known
        )
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
        pending: deque[tuple[int, str, Future[ImageFacts]]] = deque()

        def finish(number: int) -> None:
            while len(pending) > number:
                image, shard, future = pending.popleft()
                self._add_facts(image, shard, future.result())

        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for item in iterate(part, self._report, image_folder):
                    bits = split or (HELD_OUT if item.held_out else TRAIN)
                    self._add_record(item, bits)
                    for number, ref in self._new_images(item, bits):
                        future = pool.submit(
                            measure_image, ref, self._perceptual
                        )
                        pending.append((number, item.shard, future))
                    finish(_QUEUED * self._workers)
                    on_record()
            finally:
                finish(0)

    def _report(self, kind: str, message: str) -> None:
        kind = 'skipped' if kind == 'skipped' else 'damaged'
        self.problems.add(Problem(kind, '', message))

    def _add_facts(self, number: int, shard: str, facts: ImageFacts) -> None:
        self.known.add_facts(number, facts)
        name = facts.name
        if facts.error is not None:
            self.problems.add(Problem('unreadable', name, facts.error))
            if shard:
                self.usable[shard] -= 1
            return
        short, long = sorted((facts.width, facts.height))
        size = f'{facts.width} x {facts.height} pixels'
        if short < _TINY_SIDE:
            self.problems.add(Problem('tiny', name, size))
        if long > _EXTREME_RATIO * short:
            self.problems.add(Problem('aspect', name, size))
        if facts.is_blank:
            self.problems.add(Problem('blank', name, 'it has one colour'))

    def _new_images(
        self, item: DataItem, bits: int
    ) -> Iterator[tuple[int, ImageRef]]:
        """Yield number and place of the images that no earlier record has."""
        for ref in item.images:
            self.num_images += 1
            number = self.known.add_image(ref, bits, self._own)
            if number is not None:
                yield number, ref

    def _add_record(self, item: DataItem, bits: int) -> None:
        self.num_records += 1
        self.parts[item.part] += 1
        if item.shard:
            self.shards[item.shard] += 1
        self._draw(item)
        if item.error is not None:
            self.problems.add(Problem('invalid', item.name, item.error))
            return
        self.num_valid += 1
        if item.shard:
            self.usable[item.shard] += 1
        if not item.turns:
            self.problems.add(Problem('no-text', item.name, 'it has no text'))
            return
        self.num_turns += len(item.turns)
        answers = [turn.answer or '' for turn in item.turns]
        for answer in answers:
            self.words.add(len(answer.split()))
            self.characters.add(len(answer))
            if is_near_empty(answer):
                self.problems.add(
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
        start = (item.turns[0].answer or item.turns[0].question)[:80]
        self.known.add_text(digest, bits, self._own, item.name, start)

    def _measure_prompt(self, item: DataItem, prompts: PromptTokens) -> None:
        prompt, reason = prompt_or_error(prompts, item)
        if prompt is None:
            self.problems.add(Problem('invalid', item.name, reason))
            return
        for length in prompt.answer_lengths:
            self.answer_tokens.add(length)
        self.prompt_tokens.add(prompt.length)
        if prompt.truncated:
            self.problems.add(
                Problem(
                    'truncated',
                    item.name,
                    f'an answer has {max(prompt.answer_lengths)} tokens, '
                    f'at most {prompts.max_text_length} are used',
                )
            )
        if not prompt.fits:
            self.problems.add(
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
