# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How far two reviewers agree."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from ..evaluation.kappa import cohens_kappa
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
