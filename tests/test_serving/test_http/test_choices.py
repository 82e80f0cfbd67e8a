# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Several answers to one prompt (``n``), complete and streamed."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from minigpt4.nano import grammar

openai = pytest.importorskip('openai', reason='needs minigpt4[serve]')
pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')
pytest.importorskip('prometheus_client', reason='needs minigpt4[serve]')

from tests.chat_server import (
    DESCRIBE,
    ask,
    complete,
    get,
    held_engine,
    post,
    running,
    slow_engine,
    text_of,
    until,
    url_of,
)

from minigpt4.serving.http.choices import choice_seed
from minigpt4.serving.http.parse_request import RequestLimits

# varied answers, of several lengths
VARIED = dict(temperature=2.0, extra_body=dict(top_k=500), max_tokens=24)
# answers of 12 seconds with slow_engine
LONG = dict(
    temperature=2.0,
    extra_body=dict(top_k=500, min_tokens=400),
    max_tokens=400,
)


@pytest.fixture(scope='module')
def api(model):
    with running(model) as api:
        yield api


@pytest.fixture(scope='module')
def messages(scenes):
    return ask(DESCRIBE, url_of(scenes[0][1]))


def texts_of(answer) -> list[str]:
    assert [c.index for c in answer.choices] == list(
        range(len(answer.choices))
    )
    return [choice.message.content for choice in answer.choices]


def test_seeds_of_choices():
    assert [choice_seed(5, i) for i in range(3)] == [5, 6, 7]
    assert choice_seed(None, 2) is None
    assert choice_seed(2**63 - 1, 1) == -(2**63)
    assert choice_seed(-(2**63), 0) == -(2**63)


def test_greedy_choices_are_equal_and_generated_once(api, scenes, messages):
    before = api.worker.engine.runner.stats.decode_tokens
    answer = complete(api, messages, n=3)
    generated = api.worker.engine.runner.stats.decode_tokens - before
    assert texts_of(answer) == [grammar.description(scenes[0][0])] * 3
    assert {choice.finish_reason for choice in answer.choices} == {'stop'}
    one = complete(api, messages)
    usage = answer.usage
    assert usage.prompt_tokens == one.usage.prompt_tokens
    assert usage.completion_tokens == 3 * one.usage.completion_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert generated <= one.usage.completion_tokens


def test_choices_are_those_of_consecutive_seeds(api, messages):
    answer = complete(api, messages, n=4, seed=3, **VARIED)
    texts = texts_of(answer)
    assert len(set(texts)) > 2
    assert texts_of(complete(api, messages, n=4, seed=3, **VARIED)) == texts
    single = [complete(api, messages, seed=3 + i, **VARIED) for i in range(4)]
    assert [one.choices[0].message.content for one in single] == texts
    assert [one.choices[0].finish_reason for one in single] == [
        choice.finish_reason for choice in answer.choices
    ]
    usage = answer.usage
    assert usage.prompt_tokens == single[0].usage.prompt_tokens
    assert usage.completion_tokens == sum(
        one.usage.completion_tokens for one in single
    )
    assert len(set(texts_of(complete(api, messages, n=4, **VARIED)))) > 1


def test_choices_share_the_prompt(model, messages):
    with running(model, slots=3) as api:  # fewer than choices
        stats = api.worker.engine.runner.stats
        answer = complete(api, messages, n=5, **VARIED)
        prompt = answer.usage.prompt_tokens
        assert len(answer.choices) == 5
        assert stats.images == 1
        assert stats.prefill_tokens == prompt + 4
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        lines = get(api, '/metrics')[1].splitlines()
        counts = dict(line.rsplit(' ', 1) for line in lines if line[0] != '#')
        for kind, number in (
            ('prompt', prompt),
            ('completion', answer.usage.completion_tokens),
        ):
            name = f'minigpt4_tokens_total{{kind="{kind}"}}'
            assert float(counts[name]) == number
        assert float(counts['minigpt4_images_total']) == 1


@pytest.mark.parametrize('settings', [{}, dict(VARIED, seed=3)])
def test_a_stream_equals_the_complete_answers(api, messages, settings):
    full = complete(api, messages, n=3, **settings)
    with slow_engine(api):
        events = list(
            complete(
                api,
                messages,
                n=3,
                stream=True,
                stream_options=dict(include_usage=True),
                **settings,
            )
        )
    texts, reasons, order = [''] * 3, [None] * 3, []
    for event in events[:-1]:
        (choice,) = event.choices
        index = choice.index
        assert reasons[index] is None, 'nothing after the end of a choice'
        assert (choice.delta.role == 'assistant') == (index not in order)
        texts[index] += choice.delta.content or ''
        reasons[index] = choice.finish_reason
        order.append(index)
    assert texts == texts_of(full)
    assert reasons == [choice.finish_reason for choice in full.choices]
    assert order != sorted(order), 'the choices alternate'
    assert not events[-1].choices
    assert events[-1].usage.completion_tokens == full.usage.completion_tokens


def test_choices_count_in_the_queue(model, messages):
    with running(model, slots=1, max_waiting=2) as api:
        with pytest.raises(openai.BadRequestError, match='from 1 to 3'):
            complete(api, messages, n=4)
        with held_engine(api) as allow, ThreadPoolExecutor(2) as pool:
            first = pool.submit(complete, api, messages, n=2, **VARIED)
            until(lambda: api.gate.admitted == 2)
            with pytest.raises(openai.RateLimitError) as caught:
                complete(api, messages, n=2, **VARIED)
            assert caught.value.code == 'queue_full'
            other = pool.submit(text_of, api, messages, max_tokens=2)
            until(lambda: api.gate.admitted == 3)
            allow()
            assert other.result()
            assert len(first.result().choices) == 2
        until(lambda: not api.gate.clients)
        assert api.gate.admitted == 0
        assert len(complete(api, messages, n=3, **VARIED).choices) == 3


def test_choices_of_one_client_are_limited(model, messages):
    limits = RequestLimits(client_requests=2)
    with running(model, limits=limits) as api:
        with pytest.raises(openai.BadRequestError, match='from 1 to 2'):
            complete(api, messages, n=3)
        with held_engine(api) as allow, ThreadPoolExecutor(1) as pool:
            first = pool.submit(complete, api, messages, **VARIED)
            until(lambda: api.gate.admitted == 1)
            with pytest.raises(openai.RateLimitError, match='127.0.0.1'):
                complete(api, messages, n=2, **VARIED)
            allow()
            assert first.result()


def test_a_disconnect_cancels_all_choices(model, messages):
    with running(model, slots=2) as api, slow_engine(api):
        worker = api.worker
        stream = complete(api, messages, n=4, stream=True, **LONG)
        next(iter(stream))
        assert worker.unfinished == 4
        stream.close()
        until(lambda: worker.unfinished == 0)
        until(lambda: api.gate.admitted == 0)
        assert worker.running == worker.waiting == 0


def test_a_queue_that_is_full_meanwhile_leaves_no_choice(model, messages):
    """Requests of the web page are in the same queue."""
    with running(model, slots=1, max_waiting=1) as api:
        worker, submit, submitted = api.worker, api.worker.submit, []

        def full(*args, **settings):
            if submitted:
                from minigpt4.generation.worker import QueueFull

                raise QueueFull(2, 1)
            submitted.append(submit(*args, **settings))
            return submitted[-1]

        worker.submit = full
        with slow_engine(api), pytest.raises(openai.RateLimitError):
            complete(api, messages, n=2, **LONG)
        until(lambda: submitted[0].finished)
        assert submitted[0].finish_reason == 'cancelled'
        until(lambda: api.gate.admitted == 0)


def test_a_failure_of_one_choice_is_reported(model, messages, monkeypatch):
    with running(model) as api:
        submit, submitted = api.worker.submit, []

        def fail_second(*args, **settings):
            request = submit(*args, **settings)
            submitted.append(request)
            if len(submitted) % 2 == 0:
                request.sampler = None
            return request

        monkeypatch.setattr(api.worker, 'submit', fail_second)
        with slow_engine(api):
            with pytest.raises(openai.InternalServerError, match='failed'):
                complete(api, messages, n=2, **LONG)
            with pytest.raises(openai.APIError, match='failed'):
                list(complete(api, messages, n=2, stream=True, **LONG))
        until(lambda: api.worker.unfinished == 0)
        assert submitted[0].finish_reason == 'cancelled'


@pytest.mark.parametrize('value', [0, 9, 1.5, '2', True, -1, [2]])
def test_wrong_numbers_of_choices(api, value):
    body = json.dumps(dict(messages=ask('Who?'), n=value)).encode()
    status, _, content = post(api, body)
    assert status == 400 and content['error']['param'] == 'n'
    assert content['error']['message'].endswith(
        'expected a whole number from 1 to 8.'
    )
