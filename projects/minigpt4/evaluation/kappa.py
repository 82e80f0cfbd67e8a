# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How far two people or programs agree: Cohen's kappa.

Own code, because scikit-learn is no requirement and this is one formula.
Source: J. Cohen, "A coefficient of agreement for nominal scales", 1960.
"""

from collections import Counter
from collections.abc import Hashable, Iterable


def cohens_kappa(pairs: Iterable[tuple[Hashable, Hashable]]) -> float | None:
    """Compute Cohen's kappa of pairs of decisions.

    Args:
        pairs: The decisions of the first and of the second one.

    Returns:
        1 for full agreement, 0 for that of chance; None without pairs, or
        where both made one and the same decision everywhere.
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
