# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Numbers of a curation, for its report and its datasheet."""

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .agreement import Agreement, agreements, by_reviewer
from .history import History
from .ledger import Ledger, LedgerImage
from .pipeline import PlannedStep
from .reviews import Review
from .selection import draft_of

EXAMPLES = 3  # of each reason
_MAX_REASONS = 20


class StepNumbers(NamedTuple):
    """The results of a step.

    Attributes:
        name: Of the step.
        settings: Its settings.
        entered: Images that reached it.
        ok: Images with a text after it.
        dropped: Images that it dropped.
        failed: Images whose last try failed.
        days: Days of the first and the last result, as ``YYYY-MM-DD`` (UTC);
            None without a result.
    """

    name: str
    settings: dict[str, Any]
    entered: int
    ok: int
    dropped: int
    failed: int
    days: tuple[str, str] | None

    @property
    def missing(self) -> int:
        """Images that reached it and have neither a result nor a failure."""
        return self.entered - self.ok - self.dropped - self.failed


class Example(NamedTuple):
    """An image as an example of a reason.

    Attributes:
        image: The image.
        text: The text, or the one before a change.
        after: The text after a change; '' without one.
        note: The reason in words.
    """

    image: LedgerImage
    text: str
    after: str = ''
    note: str = ''


class Reason(NamedTuple):
    """How often something happened, with examples.

    Attributes:
        name: Short identifier, or the reason in words.
        number: Number of images.
        examples: The first of them, at most :data:`EXAMPLES`.
    """

    name: str
    number: int
    examples: list[Example]


class Lengths(NamedTuple):
    """Lengths of texts in words.

    Attributes:
        texts: Number of texts.
        minimum: Words of the shortest one.
        median: Median of the words.
        mean: Mean of the words.
        maximum: Words of the longest one.
    """

    texts: int
    minimum: int
    median: float
    mean: float
    maximum: int


class Reviewing(NamedTuple):
    """The reviews of the texts that images have now.

    Attributes:
        images: Images with a review.
        decisions: Number of reviews by decision.
        reviewers: Number of reviews by person.
        twice: Images that at least two persons reviewed.
        disagreements: Those that one accepts and another rejects.
        outdated: Reviews of texts that are no longer the images' texts.
        agreements: Of each two persons.
    """

    images: int
    decisions: dict[str, int]
    reviewers: dict[str, int]
    twice: int
    disagreements: int
    outdated: int
    agreements: list[Agreement]


@dataclass
class Numbers:
    """All numbers of a curation.

    Attributes:
        num_images: Number of images.
        steps: Results by step.
        drops: Reasons of drops, the most frequent first.
        failures: Failures by step and reason.
        flags: Flags of repair and rules.
        repaired: Images with a result of the repair.
        changed: Those whose text it changed.
        repairs: Examples of changed texts.
        costs: Sums of ``cost_usd``, ``prompt_tokens``,
            ``completion_tokens`` and ``seconds`` by step.
        continued: Images whose description was continued.
        unfinished: Images whose description did not end by itself.
        draft_lengths: Of the texts before the repair; None without one.
        final_lengths: Of the texts after the last step; None without one.
        sources: Number of images by source and licence.
        reviewing: The reviews.
    """

    num_images: int = 0
    steps: list[StepNumbers] = field(default_factory=list)
    drops: list[Reason] = field(default_factory=list)
    failures: list[tuple[str, Reason]] = field(default_factory=list)
    flags: list[Reason] = field(default_factory=list)
    repaired: int = 0
    changed: int = 0
    repairs: list[Example] = field(default_factory=list)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    continued: int = 0
    unfinished: int = 0
    draft_lengths: Lengths | None = None
    final_lengths: Lengths | None = None
    sources: list[tuple[str | None, str | None, int]] = field(
        default_factory=list
    )
    reviewing: Reviewing = Reviewing(0, {}, {}, 0, 0, 0, [])


class _Reasons:
    """Counts reasons and keeps the first examples of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[Example]] = {}

    def add(self, name: str, example: Example) -> None:
        self._counts[name] += 1
        examples = self._examples.setdefault(name, [])
        if len(examples) < EXAMPLES:
            examples.append(example)

    def ordered(self) -> list[Reason]:
        order = sorted(self._counts, key=lambda n: (-self._counts[n], n))
        return [
            Reason(n, self._counts[n], self._examples[n])
            for n in order[:_MAX_REASONS]
        ]


def measure_lengths(texts: Iterable[str]) -> Lengths | None:
    """Return the lengths of texts in words; None for no text."""
    words = [len(text.split()) for text in texts]
    if not words:
        return None
    return Lengths(
        len(words),
        min(words),
        statistics.median(words),
        statistics.fmean(words),
        max(words),
    )


def collect_numbers(
    ledger: Ledger,
    planned: Sequence[PlannedStep],
    found: Iterable[History],
) -> Numbers:
    """Collect the numbers of a curation.

    Args:
        ledger: The ledger.
        planned: Its steps with their present settings.
        found: The histories of all images.
    """
    numbers = Numbers()
    drops, flags = _Reasons(), _Reasons()
    drafts: list[str] = []
    finals: list[str] = []
    sources: Counter[tuple[str | None, str | None]] = Counter()
    costs: dict[str, Counter[str]] = {}
    reviews = _Reviews()
    images: dict[int, LedgerImage] = {}
    for history in found:
        numbers.num_images += 1
        details = history.image.details
        sources[_text(details, 'source'), _text(details, 'licence')] += 1
        images[history.image.id] = history.image
        _add_costs(costs, history)
        _add_details(numbers, history)
        if history.texts:
            drafts.append(draft_of(history))
        for flag in _flags(history):
            example = Example(
                history.image,
                _last_text(history),
                note=str(flag.get('text', '')),
            )
            flags.add(str(flag.get('reason', 'flag')), example)
        if history.dropped is not None:
            reason = next(
                (
                    d['reason']
                    for d in history.details.values()
                    if d.get('rule') == history.dropped and d.get('reason')
                ),
                '',
            )
            drops.add(
                history.dropped,
                Example(history.image, _last_text(history), note=reason),
            )
        elif history.final is not None:
            finals.append(history.final)
        reviews.add(history)
    numbers.drops, numbers.flags = drops.ordered(), flags.ordered()
    numbers.draft_lengths = measure_lengths(drafts)
    numbers.final_lengths = measure_lengths(finals)
    numbers.costs = {step: dict(sums) for step, sums in costs.items()}
    numbers.sources = [
        (source, licence, count)
        for (source, licence), count in sorted(
            sources.items(),
            key=lambda item: (
                -item[1],
                [(t is None, t or '') for t in item[0]],
            ),
        )
    ]
    numbers.reviewing = reviews.numbers(len(ledger.reviews.latest()))
    _add_steps(numbers, ledger, planned, images)
    return numbers


def _add_steps(
    numbers: Numbers,
    ledger: Ledger,
    planned: Sequence[PlannedStep],
    images: dict[int, LedgerImage],
) -> None:
    """Add results and failures by step."""
    entered = numbers.num_images
    for step in planned:
        counts = ledger.counts(step.number)
        period = ledger.period(step.number)
        numbers.steps.append(
            StepNumbers(
                step.step.name,
                step.step.settings,
                entered,
                **counts,
                days=None
                if period is None
                else (_day(period[0]), _day(period[1])),
            )
        )
        entered = counts['ok']
        failures = _Reasons()
        for failure in ledger.failures(step.number):
            if failure.image in images:
                failures.add(failure.text, Example(images[failure.image], ''))
        numbers.failures += [(step.step.name, r) for r in failures.ordered()]


def _add_costs(costs: dict[str, Counter[str]], history: History) -> None:
    for step, details in history.details.items():
        for name in (
            *('cost_usd', 'prompt_tokens', 'completion_tokens'),
            'seconds',
        ):
            value = details.get(name)
            if isinstance(value, int | float):
                costs.setdefault(step, Counter())[name] += value  # type: ignore[assignment]


def _add_details(numbers: Numbers, history: History) -> None:
    """Add what the descriptions and the repair state."""
    described = history.details.get('describe', {})
    continued = history.details.get('continue', {})
    numbers.continued += continued.get('continued') is True
    ended = continued.get('finished', described.get('finished'))
    numbers.unfinished += ended is False
    if 'repair' in history.texts:
        numbers.repaired += 1
        before, after = draft_of(history), history.texts['repair']
        if before != after:
            numbers.changed += 1
            if len(numbers.repairs) < EXAMPLES:
                numbers.repairs.append(Example(history.image, before, after))


def _flags(history: History) -> list[dict[str, Any]]:
    return [
        flag
        for details in history.details.values()
        for flag in details.get('flags', ())
    ]


def _last_text(history: History) -> str:
    return next((t for t in reversed(history.texts.values()) if t), '')


class _Reviews:
    """Counts the reviews of the texts that images have now."""

    def __init__(self) -> None:
        self._images = self._twice = self._disagreements = 0
        self._reviews: list[Review] = []
        self._decisions: Counter[str] = Counter()
        self._reviewers: Counter[str] = Counter()

    def add(self, history: History) -> None:
        current = history.reviews
        if not current:
            return
        self._images += 1
        self._reviews += current
        self._decisions.update(r.decision for r in current)
        self._reviewers.update(r.reviewer for r in current)
        self._twice += len(current) > 1
        rejects = sum(r.decision == 'reject' for r in current)
        self._disagreements += 0 < rejects < len(current)

    def numbers(self, stored: int) -> Reviewing:
        return Reviewing(
            self._images,
            dict(sorted(self._decisions.items())),
            dict(sorted(self._reviewers.items())),
            self._twice,
            self._disagreements,
            stored - self._decisions.total(),
            agreements(by_reviewer(self._reviews)),
        )


def _text(details: dict[str, Any], name: str) -> str | None:
    value = details.get(name)
    return None if value is None else str(value)


def _day(seconds: float) -> str:
    return time.strftime('%Y-%m-%d', time.gmtime(seconds))
