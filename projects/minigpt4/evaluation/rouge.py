# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""ROUGE-L of a caption with several references.

Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries,
section 3; the weight of the recall, and that precision and recall may be of
two references, are those of COCO's caption scorer.
"""

from collections.abc import Sequence

_BETA = 1.2  # above 1, recall counts more than precision


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    Each bit of an integer is a position of ``first``, so that one operation
    computes a row of the table. A zero bit means that the length grows at
    this position.

    Source: Hyyrö 2004, Bit-Parallel LCS-length Computation Revisited.
    """
    positions: dict[str, int] = {}
    for i, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matches = row & positions.get(token, 0)
        row = (row + matches | row - matches) & full
    return len(first) - row.bit_count()


def rouge_l(
    caption: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    """ROUGE-L, from 0 to 1.

    Args:
        caption: Its tokens.
        references: The tokens of each reference, one at least.

    Returns:
        The weighted harmonic mean of the highest precision and the highest
        recall. As in COCO's scorer, a text without tokens counts as one
        empty token: two of them agree.
    """
    caption = caption or ['']
    precision = recall = 0.0
    for reference in references:
        reference = reference or ['']
        length = common_length(caption, reference)
        precision = max(precision, length / len(caption))
        recall = max(recall, length / len(reference))
    if not precision:
        return 0.0
    weight = _BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)
