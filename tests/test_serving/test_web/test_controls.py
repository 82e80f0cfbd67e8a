# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Generation settings from the page's controls."""

import pytest

from minigpt4.serving.http.parse_request import RequestLimits
from minigpt4.serving.web.controls import generation_settings


def test_empty_seed_is_omitted():
    assert 'seed' not in generation_settings('Sampling', 1.0, 0.9, None, 5, 80)


@pytest.mark.parametrize(
    'changes',
    [
        dict(method='Other'),
        dict(method=['Greedy']),
        dict(max_new_tokens=None),
        dict(max_new_tokens='9'),
        dict(max_new_tokens=float('nan')),
        dict(method='Sampling', temperature=-1),
        dict(method='Sampling', top_p=0),
        dict(method='Sampling', seed=2**70),
        dict(method='Sampling', seed='x'),
        dict(method='Beam search', num_beams=True),
    ],
)
def test_wrong_values_are_refused(changes):
    values = dict(
        method='Greedy',
        temperature=1.0,
        top_p=0.9,
        seed=None,
        num_beams=2,
        max_new_tokens=20,
    )
    with pytest.raises(ValueError, match='expected'):
        generation_settings(**{**values, **changes})


def test_limits_of_the_server_apply():
    limits = RequestLimits(beams=2, max_tokens=30)

    def settings(method, beams, length):
        return generation_settings(
            method, 1, 1, None, beams, length, limits=limits
        )

    assert settings('Beam search', 2, 30)['num_beams'] == 2
    with pytest.raises(ValueError, match='from 1 to 2'):
        settings('Beam search', 3, 30)
    with pytest.raises(ValueError, match='from 1 to 30'):
        settings('Greedy', 1, 31)
