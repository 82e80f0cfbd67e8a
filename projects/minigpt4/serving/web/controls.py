# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Generation settings from the values of the page's controls."""

from typing import Any

from ..http.json_values import number
from ..http.request_limits import RequestLimits

METHODS = ('Greedy', 'Sampling', 'Beam search')
MAX_BEAMS = 10  # that the page offers


def generation_settings(
    method: str,
    temperature: float,
    top_p: float,
    seed: float | None,
    num_beams: float,
    max_new_tokens: float,
    *,
    limits: RequestLimits | None = None,
) -> dict[str, Any]:
    """Convert the values of the controls to generation settings.

    A client may send any values, so they are checked here.

    Args:
        method: The decoding method, one of :data:`METHODS`.
        temperature: Temperature of sampling, 0.01 to 2.
        top_p: Top-p of sampling, 0.01 to 1.
        seed: Seed of sampling; None for another answer each time.
        num_beams: Beams of a beam search.
        max_new_tokens: The most tokens of the answer.
        limits: Limits of the request; by default up to 10 beams.

    Raises:
        ValueError: A value has another type or is out of its range.
    """
    limits = limits or RequestLimits(beams=MAX_BEAMS)
    if method not in METHODS:
        raise ValueError(
            f'the decoding method is unknown; expected {", ".join(METHODS)}.'
        )
    settings: dict[str, Any] = dict(
        max_new_tokens=number(
            'the maximum length', max_new_tokens, 1, limits.max_tokens, True
        ),
        do_sample=method == 'Sampling',
    )
    if method == 'Sampling':
        settings.update(
            temperature=number('temperature', temperature, 0.01, 2),
            top_p=number('top-p', top_p, 0.01, 1),
        )
        if seed is not None:
            settings['seed'] = number(
                'seed', seed, -(2**63), 2**63 - 1, integer=True
            )
    elif method == 'Beam search':
        settings['num_beams'] = number(
            'beams', num_beams, 1, limits.beams, integer=True
        )
    return settings
