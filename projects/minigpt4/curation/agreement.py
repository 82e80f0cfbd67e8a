# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How far two reviewers agree: Cohen's kappa.

Own code, because scikit-learn is no requirement and this is one formula.
Source: J. Cohen, "A coefficient of agreement for nominal scales", 1960.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from .reviews import Review


class Agreement(NamedTuple):
    """How far two reviewers agree.

    Attributes:
        reviewers: Their names.
        both: How many texts both decided on.
        equal: On how many of them the decision is the same.
        kappa: Cohen's kappa, -1 to 1; None where it is not defined: no
            common text, or only one decision in all.
    """

    reviewers: tuple[str, str]
    both: int
    equal: int
    kappa: float | None


def cohens_kappa(pairs: Iterable[tuple[Hashable, Hashable]]) -> float | None:
    """Compute Cohen's kappa of pairs of decisions.

    Args:
        pairs: The decisions of the first and of the second reviewer.

    Returns:
        1 for full agreement, 0 for that of chance; None without pairs, or
        where both reviewers made one and the same decision everywhere.
    """
    counted = Counter(pairs)
    total = sum(counted.values())
    if not total:
        return None
    first, second = Counter[Hashable](), Counter[Hashable]()
    for (one, other), number in counted.items():
        first[one] += number
        second[other] += number
    equal = sum(n for (one, other), n in counted.items() if one == other)
    chance = sum(first[name] * second[name] for name in first)
    if chance == total**2:
        return None
    return (equal / total - chance / total**2) / (1 - chance / total**2)


def agreements(
    decisions: Mapping[str, Mapping[Any, str]],
) -> list[Agreement]:
    """Compare all pairs of reviewers.

    Args:
        decisions: Of each reviewer: the decision on each text.
    """
    found = []
    for one, other in combinations(sorted(decisions), 2):
        first, second = decisions[one], decisions[other]
        pairs = [(first[key], second[key]) for key in first if key in second]
        equal = sum(a == b for a, b in pairs)
        found.append(
            Agreement((one, other), len(pairs), equal, cohens_kappa(pairs))
        )
    return found


def by_reviewer(reviews: Sequence[Review]) -> dict[str, dict[Any, str]]:
    """Sort reviews into the argument of :func:`agreements`.

    Args:
        reviews: As :meth:`~.ledger.Ledger.reviews` returns them.
    """
    decisions: dict[str, dict[Any, str]] = {}
    for review in reviews:
        key = (review.image, review.reviewed)
        decisions.setdefault(review.reviewer, {})[key] = review.decision
    return decisions
