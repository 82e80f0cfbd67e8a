# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Settings of the repair: what is refused, and what makes results stale."""

import pytest
from pydantic import ValidationError

from minigpt4.curation.repair_settings import REPAIR_PROMPT, RepairSettings


def openai(**fields):
    return RepairSettings(**{'backend': 'openai', 'model': 'm', **fields})


def test_the_prompt_is_that_of_the_paper():
    assert RepairSettings().message('A dog.') == (
        'Fix the error in the given paragraph. Remove any repeating '
        'sentences, meaningless characters, not English sentences, and so '
        'on. Remove unnecessary repetition. Rewrite any incomplete '
        'sentences. Return directly the results without explanation. Return '
        'directly the input paragraph if it is already correct without '
        'explanation.\n\nA dog.'
    )
    assert RepairSettings().prompt == REPAIR_PROMPT


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        (dict(backend='openai'), 'backend is openai, but model is empty'),
        (dict(backend='model'), 'backend is model, but model is empty'),
        (dict(backend='recorded'), 'give the JSONL file of the answers'),
        (
            dict(backend='recorded', recorded='a', record='b'),
            'record is set, but backend is recorded',
        ),
        (
            dict(backend='openai', model='m', max_cost=1),
            'max_cost is set, but price_prompt and price_completion are not',
        ),
        (dict(backend='chatgpt'), "'none', 'openai', 'model' or 'recorded'"),
        (
            dict(guard=dict(shrunk='drop')),
            "'ignore', 'flag', 'reject' or 'fail'",
        ),
        (dict(concurency=3), 'Extra inputs are not permitted'),
        (dict(guard=dict(min_share=2)), 'less than or equal to 1'),
    ],
)
def test_wrong_values_are_refused(fields, sentence):
    with pytest.raises(ValidationError) as raised:
        RepairSettings(**fields)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    'fields',
    [
        dict(base_url='http://127.0.0.1:1/v1'),
        dict(concurrency=99),
        dict(retries=0),
        dict(price_prompt=1, price_completion=2, max_cost=3),
        dict(requests_per_minute=5),
        dict(record='answers.jsonl'),
        dict(max_tokens_field='max_completion_tokens'),
    ],
)
def test_what_does_not_change_an_answer_is_not_in_the_key(fields):
    assert openai(**fields).key_settings() == openai().key_settings()


@pytest.mark.parametrize(
    'fields',
    [
        dict(model='n'),
        dict(prompt='Fix it.'),
        dict(temperature=None),
        dict(max_tokens=100),
        dict(extra_body=dict(top_p=0.5)),
        dict(guard=dict(grown='ignore')),
    ],
)
def test_what_changes_a_result_is_in_the_key(fields):
    assert openai(**fields).key_settings() != openai().key_settings()


def test_the_content_of_recorded_answers_is_in_the_key(tmp_path):
    file = tmp_path / 'answers.jsonl'
    settings = RepairSettings(backend='recorded', recorded=str(file))
    with pytest.raises(FileNotFoundError):
        settings.key_settings()
    file.write_text('')
    before = settings.key_settings()
    file.write_text('\n')
    assert settings.key_settings() != before
