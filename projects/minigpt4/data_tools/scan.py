# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a data set once and collect what a check needs to know.

Threads decode the images. An image that several records use is decoded once.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .check_progress import CheckProgress
from .data_items import DataItem, ImageRef, divide
from .drawn_records import DrawnRecords
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
_TOTALS = ('num_records', 'num_valid', 'num_turns', 'num_images')
_LENGTHS = ('words', 'characters', 'answer_tokens', 'prompt_tokens')


class Scan:
    """What was read.

    Args:
        prompts: Makes prompts, for their lengths; None for no lengths.
        perceptual: Whether perceptual hashes are computed.
        workers: Threads that decode images.
        num_samples: Records that are kept as examples.
        compared_to: The scan of the data that these are compared to; it
            stores the images and texts of both.
        progress: What an earlier check has read, where what is read is
            stored too; None stores nothing.

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
    """

    def __init__(
        self,
        prompts: PromptTokens | None = None,
        perceptual: bool = True,
        workers: int = 2,
        num_samples: int = 24,
        compared_to: 'Scan | None' = None,
        progress: 'CheckProgress | None' = None,
    ) -> None:
        self.prompts = prompts
        self._perceptual = perceptual
        self._workers = workers
        self._progress = progress
        self.num_records = self.num_valid = 0
        self.num_turns = self.num_images = 0
        self.parts: Counter[str] = Counter()
        self.shards: Counter[str] = Counter()
        self.usable: Counter[str] = Counter()
        self.problems = Problems()
        self._own = compared_to is None
        if compared_to is not None:
            self.known: KnownData = compared_to.known
        else:
            self.known = KnownData() if progress is None else progress.known
        self.scripts: Counter[str] = Counter()
        self.words, self.characters = Numbers(), Numbers()
        self.answer_tokens, self.prompt_tokens = Numbers(), Numbers()
        self._drawn = DrawnRecords(num_samples)
        self._muted = False

    @property
    def samples(self) -> list[DataItem]:
        """Records drawn at random, in their order."""
        return self._drawn.items

    def read(
        self,
        part: DataPart,
        image_folder: 'Path | None' = None,
        split: int | None = None,
        on_records: Callable[[int], object] = lambda number: None,
    ) -> None:
        """Read a part, except for the pieces that an earlier check has read.

        Args:
            part: The part.
            image_folder: See :func:`~.data_items.iterate`.
            split: The split of all records; None is that of each record.
            on_records: Called with the number of records after some of them
                were read; an exception that it raises ends the reading, and
                what was read remains.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file of records is damaged.
        """
        for piece in divide(part, self._report, image_folder):
            progress = self._progress
            state = None if progress is None else progress.next_state()
            if state is not None:
                self._muted = True  # its problems are in the state
                if not piece.shard:
                    deque(piece.items, maxlen=0)
                self._muted = False
                before = self.num_records
                self._restore(state)
                on_records(self.num_records - before)
                continue
            start = self._position()
            self._read_items(piece.items, split, on_records)
            if progress is not None:
                progress.store(self._state_since(piece.shard, *start))

    def _read_items(
        self,
        items: Iterator[DataItem],
        split: int | None,
        on_records: Callable[[int], object],
    ) -> None:
        pending: deque[tuple[int, str, Future[ImageFacts]]] = deque()

        def finish(number: int) -> None:
            while len(pending) > number:
                image, shard, future = pending.popleft()
                self._add_facts(image, shard, future.result())

        with ThreadPoolExecutor(self._workers) as pool:
            try:
                for item in items:
                    bits = split or (HELD_OUT if item.held_out else TRAIN)
                    self._add_record(item, bits)
                    for number, ref in self._new_images(item, bits):
                        future = pool.submit(
                            measure_image, ref, self._perceptual
                        )
                        pending.append((number, item.shard, future))
                    finish(_QUEUED * self._workers)
                    on_records(1)
            finally:
                finish(0)

    def _position(self) -> tuple[int, int, list[int]]:
        """How much was read: what :meth:`_state_since` begins with."""
        lengths = [len(getattr(self, name).values) for name in _LENGTHS]
        return self.num_records, self.problems.end, lengths

    def _state_since(
        self, shard: str, records: int, problems: int, lengths: list[int]
    ) -> dict[str, Any]:
        """What a piece of the data has changed, for JSON.

        The totals are those of all pieces; the rest is of this one.
        """
        return dict(
            totals={name: getattr(self, name) for name in _TOTALS},
            parts=self.parts,
            scripts=self.scripts,
            shard=[shard, self.shards[shard], self.usable[shard]],
            lengths={
                name: getattr(self, name).values[before:].tolist()
                for name, before in zip(_LENGTHS, lengths, strict=True)
            },
            problems=[json.loads(x) for x in self.problems.lines(problems)],
            drawn=self._drawn.after(records),
        )

    def _restore(self, state: dict[str, Any]) -> None:
        """Add what :meth:`_state_since` has returned."""
        for name, value in state['totals'].items():
            setattr(self, name, value)
        self.parts = Counter(state['parts'])
        self.scripts = Counter(state['scripts'])
        shard, samples, usable = state['shard']
        if samples:
            self.shards[shard], self.usable[shard] = samples, usable
        for name, values in state['lengths'].items():
            getattr(self, name).values.extend(values)
        self.problems.extend(Problem(**each) for each in state['problems'])
        self._drawn.restore(state['drawn'])

    def _report(self, kind: str, message: str) -> None:
        if self._muted:
            return
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
        self._drawn.add(self.num_records, item)
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
