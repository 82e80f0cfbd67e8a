# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""generation_kwargs of tasks to sampling parameters."""

import pytest

from minigpt4.harness.gen_kwargs import sampling_settings


@pytest.mark.parametrize(
    'given, expected',
    [
        ({}, dict(do_sample=False)),
        # the settings of POPE
        (
            dict(
                max_new_tokens=128,
                temperature=0,
                top_p=1.0,
                num_beams=1,
                do_sample=False,
            ),
            dict(max_new_tokens=128, num_beams=1, do_sample=False),
        ),
        # most models of lmms-eval sample above temperature 0
        (dict(temperature=0.5), dict(temperature=0.5, do_sample=True)),
        (dict(temperature=0.5, do_sample=False), dict(do_sample=False)),
        (dict(temperature=0.0, do_sample=True), dict(do_sample=False)),
        (
            dict(do_sample=True, top_p=0.9, top_k=5),
            dict(do_sample=True, top_p=0.9, top_k=5),
        ),
        (dict(top_p=0.9), dict(do_sample=False)),
        (
            dict(temperature=None, top_p=None, num_beams=None),
            dict(do_sample=False),
        ),
        (dict(max_gen_toks=7), dict(max_new_tokens=7, do_sample=False)),
        (dict(min_new_tokens=400), dict(min_new_tokens=400, do_sample=False)),
        (dict(until='\n\n'), dict(stop=['\n\n'], do_sample=False)),
        (
            dict(until=['a', '', 'b', 'a'], stop_sequences=['c']),
            dict(stop=['a', 'b', 'c'], do_sample=False),
        ),
        (dict(until=[]), dict(do_sample=False)),
        (dict(image_aspect_ratio='pad', n=1), dict(do_sample=False)),
        (
            dict(repetition_penalty=1.2, seed=3, length_penalty=2),
            dict(
                repetition_penalty=1.2,
                seed=3,
                length_penalty=2,
                do_sample=False,
            ),
        ),
    ],
)
def test_settings_are_mapped(given, expected):
    assert sampling_settings(given) == expected


@pytest.mark.parametrize(
    'given, message',
    [
        (dict(max_new_token=3), 'did you mean max_new_tokens'),
        (dict(grammar='x'), 'grammar="x", which this model does not'),
        (dict(n=4), 'n=4; this model gives one answer'),
        (dict(until=3), 'until=3; expected a text or a list of texts'),
        (dict(until=['a', None]), 'expected a text or a list of texts'),
        (dict(max_new_tokens=0), 'max_new_tokens is 0; expected'),
        (dict(temperature=-1), 'temperature is -1; expected'),
        (dict(do_sample=True, top_p=0), 'top_p is 0; expected'),
        (dict(num_beams=0), 'num_beams is 0; expected'),
        (dict(do_sample='no'), "do_sample is 'no'; expected"),
    ],
)
def test_other_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        sampling_settings(given)
