# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Repairs by the LLM of a local model."""

from types import SimpleNamespace

import pytest

from minigpt4.curation.ledger import LedgerImage
from minigpt4.curation.pipeline import StepItem
from minigpt4.curation.repair_settings import RepairSettings
from minigpt4.endpoints import local_model
from minigpt4.endpoints.answers import Answer, EndpointError, Request
from minigpt4.endpoints.backends import create_backend

NAME = 'minigpt-4_nano_caption'


def backend(**fields):
    return create_backend(
        RepairSettings(
            backend='model',
            model=NAME,
            device='cpu',
            concurrency=2,
            **{'max_tokens': 24, **fields},
        )
    )


def requests(*messages):
    for number, message in enumerate(messages):
        item = StepItem(LedgerImage(number, 'd', '/x', {}), message, {})
        yield Request(item, message)


def answers(asked, *messages):
    return {
        request.message: answer
        for request, answer in filter(None, asked.answers(requests(*messages)))
    }


def test_every_message_has_an_answer_of_its_own():
    messages = [f'What is this? {i}' for i in range(5)]
    found = answers(backend(), *messages)
    assert set(found) == set(messages)
    alone = answers(backend(), messages[3])
    assert alone[messages[3]] == found[messages[3]]
    for answer in found.values():
        assert bool(answer.text) is not bool(answer.problem)
        assert answer.prompt_tokens > 0 and answer.completion_tokens > 0


def test_a_limit_and_a_long_message_fail_their_text_alone():
    long = 'word ' * 5000
    found = answers(backend(max_tokens=1), 'Hello', long)
    assert 'reached 1 tokens and is cut off' in found['Hello'].problem
    assert found['Hello'].completion_tokens == 1 < found['Hello'].prompt_tokens
    assert 'exceed' in found[long].problem and not found[long].endpoint_failed


def test_a_model_that_always_fails_ends_the_run(monkeypatch):
    asked = backend(max_failures=3)

    def fail(*args, **kwargs):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(
        'minigpt4.generation.model_runner.ModelRunner.prefill', fail
    )
    with pytest.raises(EndpointError, match='failed 3 times in succession'):
        answers(asked, *map(str, range(9)))


@pytest.mark.parametrize(
    ('temperature', 'sampling'),
    [
        (0, dict(do_sample=False)),
        (None, dict(do_sample=False)),
        (0.7, dict(do_sample=True, temperature=0.7)),
    ],
)
def test_the_settings_reach_the_model(monkeypatch, temperature, sampling):
    given = []

    def submit(self, prompt, images, **params):
        given.append(params)
        raise ValueError('too long')

    monkeypatch.setattr('minigpt4.generation.engine.Engine.submit', submit)
    found = answers(backend(temperature=temperature), 'Hello')
    assert found['Hello'].problem == 'too long'
    assert given == [dict(max_new_tokens=24, **sampling)]


@pytest.mark.parametrize(
    ('own', 'given', 'chat_template', 'used'),
    [
        ('bare', None, '{{ messages }}', 'chat'),
        ('bare', None, None, 'vicuna_v0'),
        ('bare', 'llama2', '{{ messages }}', 'llama2'),
        ('vicuna_v0', None, '{{ messages }}', 'vicuna_v0'),
        ('vicuna_v0', 'chat', None, 'chat'),
    ],
)
def test_a_model_of_stage_1_has_the_chat_template_of_its_llm(
    monkeypatch, own, given, chat_template, used
):
    model = SimpleNamespace(
        decoder=SimpleNamespace(
            tokenizer=SimpleNamespace(chat_template=chat_template)
        ),
        template=SimpleNamespace(name=own),
    )
    monkeypatch.setattr(local_model, 'load_model', lambda *_: model)
    monkeypatch.setattr(
        local_model, 'get_template', lambda name, _: SimpleNamespace(name=name)
    )
    load = local_model.shared_model.__wrapped__
    assert load('name', None, None, given).template.name == used


def test_known_answers_pass():
    (request,) = requests('x')
    known = request._replace(known=Answer('X'))
    assert list(backend().answers(iter([known]))) == [(known, Answer('X'))]
