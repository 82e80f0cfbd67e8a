# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""In which order do reviewers get the texts, and which are decided?

The queue has the numbers of the images in memory, sorted by risk; texts are
loaded one by one (:mod:`.review_item`). Decisions of other processes on the
same ledger are seen too.
"""

import threading
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .agreement import agreements
from .invented_objects import invented_objects
from .ledger import Ledger
from .review_item import ReviewItem, load_items
from .review_settings import ReviewSettings
from .reviews import text_digest

# Which texts a reviewer goes through.
SHOWN = {
    'todo': 'without a decision of this reviewer',
    'open': 'without a decision of any reviewer',
    'decided': 'with a decision of this reviewer',
    'disputed': 'on which reviewers disagree',
    'all': 'all texts',
}
_HELD_SECONDS = 300.0  # that a text stays with the reviewer who sees it
_REFRESH_SECONDS = 5.0
_FEW = 5000  # decided texts; with more, kappa is computed less often
_SORT_SECONDS = 3.0  # between two times while objects are searched
_SCORED = 200  # texts whose objects are searched at a time


class ReviewQueue:
    """The texts under review, riskiest first.

    Args:
        ledger: The ledger.
        steps: Names and numbers of the automatic steps, in their order.
        settings: Weights of the risk.

    Attributes:
        scoring: Whether :meth:`score_objects` is running.

    Raises:
        ValueError: The last step has no text.
    """

    def __init__(
        self,
        ledger: Ledger,
        steps: Mapping[str, int],
        settings: ReviewSettings | None = None,
    ) -> None:
        self.ledger = ledger
        self.steps = dict(steps)
        self.settings = settings or ReviewSettings()
        self._last = next(reversed(self.steps.values()))
        self._lock = threading.RLock()
        self._order = array('q')  # images, riskiest first
        self._risk: dict[int, float] = {}  # of images whose risk is not 0
        self.scoring = False
        self._scored: set[int] = set()  # images whose objects were searched
        self._last_result = 0
        self._last_review = 0
        self._refreshed = 0.0
        self._digests: dict[int, str] = {}  # of texts with reviews
        self._decisions: dict[str, dict[int, str]] = {}
        self._times_decided: Counter[int] = Counter()
        self._disputed: set[int] = set()
        self._pairs: list[dict[str, Any]] = []
        self._compared = 0.0
        self._held: dict[int, tuple[str, float]] = {}
        self.refresh()
        if not self._order:
            raise ValueError(
                f'{ledger.path} has no texts to review yet; run the '
                'automatic steps first: minigpt4 curate run.'
            )

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the numbers of the images, riskiest first."""
        return iter(self._order[:])

    def listed(self, shown: str, reviewer: str = '') -> list[int]:
        """List the texts of one kind, riskiest first.

        Args:
            shown: One of :data:`SHOWN`.
            reviewer: The reviewer, where the kind depends on one.
        """
        self._update()
        with self._lock:
            own = self._decisions.get(reviewer, {})
            if shown == 'todo':
                return [image for image in self._order if image not in own]
            if shown == 'open':
                decided = self._times_decided
                return [i for i in self._order if i not in decided]
            if shown == 'all':
                return list(self._order)
            some: Any = own if shown == 'decided' else self._disputed
            return sorted(some, key=self._key)

    def risk(self, image: int) -> float:
        """The risk of the text of an image."""
        return self._risk.get(image, 0.0)

    def item(self, image: int) -> ReviewItem | None:
        """Load the text of an image; None if it has none."""
        found = load_items(self.ledger, self.steps, [image])
        return found[0] if found else None

    def refresh(self) -> None:
        """Find texts that were added since the last call."""
        with self._lock:
            self._refreshed = time.monotonic()
            ((newest,),) = self.ledger.select('SELECT MAX(id) FROM results')
            newest = newest or 0
            if newest == self._last_result:
                return
            if not self._last_result:  # these indexes have all that is needed
                added = self._select(
                    'SELECT image FROM results WHERE step = :last AND '
                    "status != 'failed' AND id <= :newest AND image NOT IN "
                    '(SELECT image FROM results WHERE step = :last AND '
                    "status = 'dropped')",
                    newest=newest,
                )
                flags = (
                    "SELECT image, json_array_length(details, '$.flags') FROM "
                    'results WHERE step = :step AND id <= :newest AND '
                    "json_array_length(details, '$.flags') > 0"
                )
            else:
                added = self._select(
                    'SELECT image FROM results WHERE id > :after AND '
                    "id <= :newest AND step = :last AND status = 'ok'",
                    newest=newest,
                )
                flags = (
                    "SELECT image, json_array_length(details, '$.flags') FROM "
                    'results WHERE id > :after AND id <= :newest AND '
                    'step = :step AND '
                    "json_array_length(details, '$.flags') > 0"
                )
            images = array('q', (image for (image,) in added))
            for name, step in self.steps.items():
                weight = self.settings.weight(name)
                for image, number in self._select(
                    flags, step=step, newest=newest
                ):
                    self._add_risk(image, weight * number)
            self._last_result = newest
            self._sort([*self._order, *images])

    def score_objects(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Search the texts for invented objects, and sort by them too.

        Args:
            stop: Returns whether to end early.

        Returns:
            How many texts were searched.
        """
        self.scoring = True
        with_known = [
            image
            for (image,) in self.ledger.select(
                'SELECT id FROM images WHERE details LIKE \'%"objects":%\' OR '
                'details LIKE \'%"captions":%\''
            )
        ]
        with self._lock:
            present = set(self._order)
            waiting = [
                image
                for image in with_known
                if image in present and image not in self._scored
            ]
        risks: dict[int, float] = {}
        sorted_at = time.monotonic()

        def apply() -> None:
            with self._lock:
                for image, risk in risks.items():
                    self._add_risk(image, risk)
                self._sort(self._order)
            risks.clear()

        for start in range(0, len(waiting), _SCORED):
            if stop():
                break
            part = waiting[start : start + _SCORED]
            details = {i.id: i.details for i in self.ledger.images(part)}
            for result in self.ledger.results(self._last, part):
                found = invented_objects(result.text, details[result.image])
                risks[result.image] = len(found) * self.settings.object_weight
            self._scored.update(part)
            if time.monotonic() - sorted_at > _SORT_SECONDS:
                apply()
                sorted_at = time.monotonic()
        apply()
        self.scoring = False
        return len(waiting)

    def next(
        self,
        reviewer: str,
        shown: str = 'todo',
        after: int | None = None,
        forward: bool = True,
        hold: bool = False,
    ) -> int | None:
        """Find the next text of a reviewer.

        Args:
            reviewer: The reviewer.
            shown: One of :data:`SHOWN`.
            after: The image from which to go on; None is the start, or the
                end if not ``forward``.
            forward: Whether to go to lower risk.
            hold: Whether other reviewers do not get the text as ``'open'``
                for some minutes.

        Returns:
            The number of its image; None at the end.
        """
        self._update()
        with self._lock:
            own = self._decisions.get(reviewer, {})
            now = time.monotonic()

            def fits(image: int) -> bool:
                if shown == 'todo':
                    return image not in own
                if shown == 'open':
                    holder, until = self._held.get(image, ('', 0.0))
                    held = holder != reviewer and until > now
                    return not held and not self._times_decided[image]
                return True

            if shown in ('decided', 'disputed'):
                order: Any = self.listed(shown, reviewer)
            else:
                order = self._order
            if after is None:
                position = 0 if forward else len(order)
            else:
                key = self._key(after)
                position = bisect_left(order, key, key=self._key)
                if forward and position < len(order):
                    position += order[position] == after
            places = (
                range(position, len(order))
                if forward
                else range(position - 1, -1, -1)
            )
            for place in places:
                if fits(order[place]):
                    if hold:
                        until = now + _HELD_SECONDS
                        self._held[order[place]] = (reviewer, until)
                    return order[place]
        return None

    def place(self, image: int) -> int:
        """The place of an image in the queue, from 1."""
        with self._lock:
            return (
                bisect_left(self._order, self._key(image), key=self._key) + 1
            )

    def decision(self, reviewer: str, image: int) -> str | None:
        """The decision of a reviewer on the text of an image."""
        return self._decisions.get(reviewer, {}).get(image)

    def progress(self) -> dict[str, Any]:
        """Count the decisions.

        Returns:
            ``total``; ``open`` (texts without a decision); ``disputed``;
            ``reviewers``: of each its number of decisions by kind;
            ``agreement``: a list of :class:`~.agreement.Agreement` as dicts.
        """
        self._update()
        with self._lock:
            return dict(
                total=len(self._order),
                open=len(self._order) - len(self._times_decided),
                disputed=len(self._disputed),
                reviewers={
                    name: dict(Counter(decisions.values()))
                    for name, decisions in sorted(self._decisions.items())
                    if decisions
                },
                agreement=self._agreement(),
            )

    def _select(self, query: str, **values: Any) -> Iterator[tuple]:
        values.update(last=self._last, after=self._last_result)
        return self.ledger.select(query, values)

    def _key(self, image: int) -> tuple[float, int]:
        return -self._risk.get(image, 0.0), image

    def _add_risk(self, image: int, risk: float) -> None:
        if risk:
            self._risk[image] = self._risk.get(image, 0.0) + risk

    def _sort(self, images: 'list[int] | array') -> None:
        present = set(images)
        risky = sorted(present & self._risk.keys(), key=self._key)
        rest = sorted(present - self._risk.keys())
        self._order = array('q', [*risky, *rest])

    def _agreement(self) -> list[dict[str, Any]]:
        """Compare the reviewers; seldom while there are many decisions."""
        age = time.monotonic() - self._compared
        few = len(self._times_decided) < _FEW
        if few or age > _REFRESH_SECONDS:
            self._compared = time.monotonic()
            self._pairs = [
                pair._asdict()
                for pair in agreements(self._decisions)
                if pair.both
            ]
        return self._pairs

    def _update(self) -> None:
        """Take over new reviews, and every few seconds new texts."""
        with self._lock:
            if time.monotonic() - self._refreshed > _REFRESH_SECONDS:
                self.refresh()
            rows = list(
                self.ledger.select(
                    'SELECT id, image, reviewed, reviewer, decision FROM '
                    'reviews WHERE id > ? ORDER BY id',
                    (self._last_review,),
                )
            )
            unknown = sorted({r[1] for r in rows} - self._digests.keys())
            for start in range(0, len(unknown), 10_000):
                part = unknown[start : start + 10_000]
                for result in self.ledger.results(self._last, part):
                    if result.status == 'ok':
                        digest = text_digest(result.text)
                        self._digests[result.image] = digest
            for id_, image, reviewed, reviewer, decision in rows:
                self._last_review = id_
                if self._digests.get(image) != reviewed:
                    continue  # of another text
                own = self._decisions.setdefault(reviewer, {})
                known = own.pop(image, None) is not None
                if decision != 'none':
                    own[image] = decision
                change = (decision != 'none') - known
                self._times_decided[image] += change
                if not self._times_decided[image]:
                    del self._times_decided[image]
                found = {d.get(image) for d in self._decisions.values()}
                if len(found - {None}) > 1:
                    self._disputed.add(image)
                else:
                    self._disputed.discard(image)
