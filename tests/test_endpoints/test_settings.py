# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What an answer depends on, so that no answer of other settings is used."""

import hashlib

import pytest

from minigpt4.endpoints.settings import EndpointSettings


def request_settings(**fields):
    return EndpointSettings(model='m', **fields).request_settings()


def test_what_the_answer_of_an_endpoint_depends_on():
    assert request_settings(
        backend='openai',
        temperature=0.5,
        max_tokens=7,
        extra_body={'top_p': 0.9},
        # a model may move, and other keys, rates and prices change nothing
        base_url='http://127.0.0.1:1/v1',
        api_key_env='KEY',
        concurrency=3,
        requests_per_minute=6,
        price_prompt=1,
        price_completion=2,
        max_cost=3,
    ) == dict(
        backend='openai',
        model='m',
        temperature=0.5,
        max_tokens=7,
        extra_body={'top_p': 0.9},
    )


def test_what_the_answer_of_a_local_model_depends_on(tmp_path):
    weights = tmp_path / 'weights.pth'
    weights.write_bytes(b'weights')
    expected = dict(backend='model', model='m', temperature=0, max_tokens=512)
    assert request_settings(backend='model', device='cpu') == dict(
        **expected, template=None
    )
    found = request_settings(
        backend='model', pretrained=str(weights), template='vicuna_v0'
    )
    # its content, wherever the file is
    assert found == dict(
        **expected,
        template='vicuna_v0',
        pretrained=hashlib.sha256(b'weights').hexdigest(),
    )


def test_what_a_recorded_answer_depends_on(tmp_path):
    file = tmp_path / 'answers.jsonl'
    file.write_bytes(b'{}\n')
    assert request_settings(backend='recorded', recorded=str(file)) == dict(
        backend='recorded',
        model='m',
        recorded=hashlib.sha256(b'{}\n').hexdigest(),
    )
    assert request_settings() == dict(backend='none')


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        (dict(backend='openai'), 'model is empty; give the name'),
        (dict(backend='recorded', model='m'), 'recorded is empty'),
        (
            dict(backend='recorded', recorded='a', record='b'),
            'record is set, but backend is recorded',
        ),
        (dict(max_cost=1, price_prompt=1), 'price_completion are not'),
        (dict(timeout_seconds=1e10), 'less than or equal to 86400'),
        (dict(backoff_seconds=1e10), 'less than or equal to 86400'),
        (dict(max_wait_seconds=1e10), 'less than or equal to 86400'),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        EndpointSettings(**fields)
