# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parameters are checked by name and value; tokens match transformers."""

import pytest
import torch

from minigpt4.generation.sampling_params import SamplingParams

CPU = torch.device('cpu')


def test_later_parameters_override_earlier_ones():
    params = SamplingParams.of(
        dict(max_new_tokens=80, stop='x'), dict(max_new_tokens=5)
    )
    assert params == SamplingParams(max_new_tokens=5, stop=('x',))
    assert SamplingParams.of({}) == SamplingParams()
    assert not SamplingParams().do_sample, 'greedy by default'


@pytest.mark.parametrize(
    'setting, message',
    [
        (
            dict(max_tokens=3),
            'unknown generation setting max_tokens;.*max_new',
        ),
        (dict(max_new_tokens=0), 'max_new_tokens is 0; expected an integer'),
        (dict(max_new_tokens=True), 'max_new_tokens is True'),
        (dict(max_new_tokens=2.5), 'max_new_tokens is 2.5'),
        (
            dict(temperature=0),
            'temperature is 0; expected above 0, at least',
        ),
        (dict(temperature=1e-300), 'temperature is 1e-300; expected above 0'),
        (dict(temperature=float('nan')), 'temperature is nan'),
        (dict(temperature='hot'), "temperature is 'hot'"),
        (dict(top_p=1.5), 'top_p is 1.5; expected above 0, up to 1'),
        (dict(top_k=-1), 'top_k is -1'),
        (dict(repetition_penalty=0), 'repetition_penalty is 0'),
        (dict(num_beams=0), 'num_beams is 0'),
        (dict(seed=2**70), 'seed is 1180591620717411303424'),
        (dict(stop=['']), r"stop is \('',\); expected texts"),
        (dict(stop=''), r"stop is \('',\); expected texts"),
        (dict(stop=[3]), 'stop is'),
        (
            dict(min_new_tokens=9, max_new_tokens=8),
            'min_new_tokens is 9, more than max_new_tokens 8',
        ),
        (dict(min_new_tokens=-1), 'min_new_tokens is -1'),
        (dict(stop=3), 'stop is 3; expected texts'),
        (dict(do_sample='yes'), "do_sample is 'yes'"),
        (dict(logprobs=21), 'logprobs is 21; expected an integer from 0 to'),
        (dict(logprobs=-1), 'logprobs is -1'),
        (dict(logprobs=True), 'logprobs is True'),
        (dict(logprobs=2.0), 'logprobs is 2.0'),
        (dict(logprobs=2, num_beams=3), 'logprobs is 2 with num_beams 3'),
    ],
)
def test_invalid_parameters_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams.of(setting)
