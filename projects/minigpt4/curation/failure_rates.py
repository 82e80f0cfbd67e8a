# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How many descriptions have which fault, by the rules on texts.

The rules that compare images with each other are not counted. A text may
break several rules, so the numbers do not add up to the total.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from .rules import RULES, RulesSettings


class FailureRates(NamedTuple):
    """How many texts break which rule.

    Attributes:
        texts: Number of texts.
        any_rule: Texts that break at least one rule.
        by_rule: Texts that break each rule, in the order of the rules.
    """

    texts: int
    any_rule: int
    by_rule: dict[str, int]


def measure_failures(
    texts: Iterable[str], settings: RulesSettings
) -> FailureRates:
    """Apply all rules on texts to each text.

    Args:
        texts: The descriptions.
        settings: Parameters of the rules. Those in ``skip`` are not counted.
    """
    rules = [
        (rule.id, rule.check)
        for rule in RULES
        if rule.check is not None and rule.id not in settings.skip
    ]
    counts: Counter[str] = Counter()
    total = any_rule = 0
    for text in texts:
        found = [id_ for id_, check in rules if check(text, settings)]
        counts.update(found)
        total += 1
        any_rule += bool(found)
    by_rule = {id_: counts[id_] for id_, _ in rules}
    return FailureRates(total, any_rule, by_rule)
