# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Every failure of an endpoint has its sentence, and loses nothing."""

import socket
import threading
import time

import pytest
from tests.chat_endpoint import chat_endpoint, completion, draft_of

from minigpt4.curation.ledger import LedgerImage
from minigpt4.curation.pipeline import StepItem
from minigpt4.curation.repair_settings import RepairSettings
from minigpt4.endpoints.answers import Answer, EndpointError, Request
from minigpt4.endpoints.openai_api import OpenAIBackend, retry_after
from minigpt4.endpoints.rate import RateLimiter

pytest.importorskip('openai')
KEY = 'sk-secret-of-the-test'


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv('REPAIR_KEY', KEY)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')


def backend(url, **settings):
    settings = {'backoff_seconds': 0.01, 'timeout_seconds': 60, **settings}
    return OpenAIBackend(
        RepairSettings(
            backend='openai',
            model='fixer',
            base_url=url,
            api_key_env='REPAIR_KEY',
            **settings,
        )
    )


def request(number, text='A dog.'):
    item = StepItem(LedgerImage(number, str(number), '/x', {}), text, {})
    return Request(item, f'Fix it.\n\n{text}')


def ask(url, count=1, **settings):
    """The answers by number of image, and the error that ended the run."""
    answers, error = {}, None
    requests = (request(i, f'Text {i}.') for i in range(count))
    try:
        for done in backend(url, **settings).answers(requests):
            if done is not None:
                answers[done[0].item.image.id] = done[1]
    except EndpointError as raised:
        error = str(raised)
    return answers, error


def test_the_rate_counts_the_message_and_half_of_it(monkeypatch):
    found = []
    monkeypatch.setattr(
        RateLimiter,
        'acquire',
        lambda self, tokens, ended: found.append(tokens),
    )
    # 9 + 31 characters, of which 4 are a token; nothing is sent
    requests = iter([request(0, 'x' * 31)])
    assert not any(backend('http://127.0.0.1:9/v1').answers(requests))
    assert found == [10 + 5]


def in_turn(*replies):
    """An answer function: each reply once, then the draft."""
    remaining = iter(replies)
    lock = threading.Lock()

    def answer(message):
        with lock:
            reply = next(remaining, None)
        return draft_of(message) if reply is None else reply

    return answer


def test_the_request_has_the_settings_and_the_key():
    with chat_endpoint(lambda m: '  A cat. ') as endpoint:
        answers, error = ask(
            endpoint.url,
            temperature=0.5,
            max_tokens=77,
            extra_body={'top_p': 0.9},
        )
    assert error is None
    assert answers == {0: Answer('A cat.', '', 100, 50)}
    assert endpoint.keys == [f'Bearer {KEY}']
    assert endpoint.bodies == [
        {
            'model': 'fixer',
            'messages': [{'role': 'user', 'content': 'Fix it.\n\nText 0.'}],
            'temperature': 0.5,
            'max_tokens': 77,
            'top_p': 0.9,
        }
    ]


def test_the_field_of_newer_models_and_an_endpoint_without_key():
    with chat_endpoint() as endpoint:
        settings = RepairSettings(
            backend='openai',
            model='m',
            base_url=endpoint.url,
            api_key_env=None,
            temperature=None,
            max_tokens_field='max_completion_tokens',
        )
        list(OpenAIBackend(settings).answers(iter([request(0)])))
    assert endpoint.bodies[0]['max_completion_tokens'] == 512
    assert not {'temperature', 'max_tokens'} & set(endpoint.bodies[0])


@pytest.mark.parametrize('status', [408, 409, 429, 500, 502, 503])
def test_a_temporary_error_is_tried_again(status):
    reply = status, {}, {'error': {'message': 'busy'}}
    with chat_endpoint(in_turn(reply, reply)) as endpoint:
        answers, error = ask(endpoint.url)
    assert error is None and answers[0].text == 'Text 0.'
    assert len(endpoint.messages) == 3


def test_retry_after_delays_all_requests():
    reply = 429, {'Retry-After': '0.6'}, {'error': {'message': 'slow down'}}
    with chat_endpoint(in_turn(reply)) as endpoint:
        # without it the wait is 22 seconds at least
        settings = dict(concurrency=1, backoff_seconds=30)
        answers, error = ask(endpoint.url, 3, **settings)
    assert error is None and len(answers) == 3
    assert 0.6 <= endpoint.times[1] - endpoint.times[0] < 20


def test_a_retry_after_that_is_too_long_fails_the_text():
    reply = 429, {'Retry-After': '3600'}, {'error': {'message': 'slow down'}}
    with chat_endpoint(in_turn(reply)) as endpoint:
        answers, error = ask(endpoint.url, 2, concurrency=1)
    assert error is None and answers[1].text == 'Text 1.'
    assert answers[0].problem == (
        f'{endpoint.url}: HTTP 429, and asked to wait 3600 s, more than '
        'max_wait_seconds.'
    )


def test_after_all_retries_the_text_fails_with_the_reason():
    with chat_endpoint(
        lambda m: (503, {}, {'error': {'message': f'key {KEY} is busy.'}})
    ) as endpoint:
        answers, error = ask(endpoint.url, retries=2)
    assert error is None and len(endpoint.messages) == 3
    assert answers[0].problem == (
        f'{endpoint.url}: HTTP 503 (key *** is busy).'
    )


def test_a_slow_answer_is_a_timeout():
    ended = threading.Event()

    def answer(message):
        ended.wait(600)
        return 'late'

    with chat_endpoint(answer) as endpoint:
        answers, _ = ask(endpoint.url, timeout_seconds=1, retries=1)
        ended.set()
    assert answers[0].problem == f'{endpoint.url}: no answer within 1 s.'
    assert len(endpoint.messages) == 2


def test_a_dead_endpoint_ends_the_run():
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unused.getsockname()[1]}/v1'
        answers, error = ask(
            url, 100, max_failures=4, concurrency=2, retries=1
        )
    assert 4 <= len(answers) <= 6
    assert all('the connection failed' in a.problem for a in answers.values())
    assert error.startswith(f'{url} failed 4 times in succession, at last: ')
    assert error.endswith(
        'what was repaired is kept, run again when the endpoint works.'
    )


def test_failures_count_only_in_succession():
    bad = 400, {}, {'error': {'message': 'no'}}
    replies = [bad, bad, None, bad, bad, None, bad, bad]
    with chat_endpoint(in_turn(*replies)) as endpoint:
        answers, error = ask(endpoint.url, 8, max_failures=3, concurrency=1)
    assert error is None and len(answers) == 8
    assert sum(bool(a.problem) for a in answers.values()) == 6


@pytest.mark.parametrize(
    ('status', 'body', 'sentence'),
    [
        (
            401,
            {'error': {'message': f'Incorrect API key provided: {KEY}.'}},
            'refuses the key of REPAIR_KEY (HTTP 401: Incorrect API key '
            'provided: ***); set a valid key.',
        ),
        (
            403,
            {'error': {'message': 'forbidden'}},
            "does not permit the model 'fixer' to this key (HTTP 403: "
            'forbidden); give another model or key.',
        ),
        (
            404,
            {'error': {'message': 'The model `fixer` does not exist'}},
            "has no model 'fixer', or is no chat endpoint (HTTP 404: The "
            'model `fixer` does not exist); check repair.model and '
            'repair.base_url.',
        ),
        (
            404,
            '<html>nginx</html>',
            "has no model 'fixer', or is no chat endpoint (HTTP 404: a page "
            'of HTML); check repair.model and repair.base_url.',
        ),
        (
            429,
            {'error': {'message': 'Quota.', 'code': 'insufficient_quota'}},
            'has no credit left (HTTP 429: Quota); add credit.',
        ),
    ],
)
def test_what_no_retry_can_change_ends_the_run(status, body, sentence):
    with chat_endpoint(lambda m: (status, {}, body)) as endpoint:
        answers, error = ask(endpoint.url, 50, concurrency=2)
    assert error == f'{endpoint.url} {sentence}'
    assert answers == {} and len(endpoint.messages) <= 4


@pytest.mark.parametrize('status', [301, 302, 307, 308])
def test_a_redirect_is_named_and_not_followed(status):
    with chat_endpoint() as other:
        reply = status, {'Location': f'{other.url}/chat/completions'}, {}
        with chat_endpoint(lambda message: reply) as endpoint:
            answers, error = ask(endpoint.url)
    assert answers == {} and other.messages == []
    assert error == (
        f'{endpoint.url} redirects to {other.url}/chat/completions (HTTP '
        f'{status}), which is not followed; set repair.base_url to the '
        'address of the endpoint.'
    )


def test_a_text_in_parts_is_joined():
    parts = [
        {'type': 'text', 'text': ' A dog '},
        {'type': 'other', 'text': 'x'},
        {'type': 'text', 'text': 'runs.'},
    ]
    replies = in_turn((200, {}, completion(parts)), (200, {}, completion([])))
    with chat_endpoint(replies) as endpoint:
        answers, error = ask(endpoint.url, 2, concurrency=1)
    assert error is None and answers[0].text == 'A dog runs.'
    assert answers[1].problem == 'the answer has no text.'


def test_answers_in_work_are_kept_when_the_run_ends():
    arrived = threading.Barrier(4, timeout=60)
    refused, ended = threading.Event(), threading.Event()

    def answer(message):
        arrived.wait()
        if 'Text 0' in message:
            refused.set()
            return 401, {}, {'error': {'message': 'expired'}}
        ended.wait(60)
        return 'paid'

    answers, ticks = {}, 0
    with chat_endpoint(answer) as endpoint:
        requests = (request(i, f'Text {i}.') for i in range(50))
        found = backend(
            endpoint.url, concurrency=4, timeout_seconds=600
        ).answers(requests)
        with pytest.raises(EndpointError, match='refuses the key'):
            for done in found:
                if done is not None:
                    answers[done[0].item.image.id] = done[1]
                    continue
                ticks += refused.is_set()
                if ticks == 4:  # the run waits for these alone
                    ended.set()
    assert sorted(answers) == [1, 2, 3]
    assert {a.text for a in answers.values()} == {'paid'}
    assert len(endpoint.messages) == 4


@pytest.mark.parametrize(
    ('reply', 'problem', 'of_endpoint'),
    [
        (
            (200, {'Content-Type': 'text/html'}, '<html>Sign in</html>'),
            'the answer is HTML',
            True,
        ),
        (
            (200, {'Content-Type': 'application/json'}, '{"choices": ['),
            'the answer is no JSON',
            True,
        ),
        ((200, {}, ''), 'the answer is no JSON', True),
        ((200, {}, {'choices': []}), 'has no choices', True),
        ((200, {}, {'choices': [{'message': None}]}), 'no choices', True),
        ((200, {}, {'error': 'x', 'choices': None}), 'no choices', True),
        (
            (200, {}, completion('A dog and', 'length')),
            'the answer reached 512 tokens and is cut off; raise '
            'repair.max_tokens.',
            False,
        ),
        ((200, {}, completion(' ')), 'the answer has no text.', False),
        ((200, {}, completion(None)), 'the answer has no text.', False),
        (
            (200, {}, completion('A', 'content_filter')),
            'a content filter cut the answer off.',
            False,
        ),
        (
            (400, {}, {'error': {'message': 'too long'}}),
            'HTTP 400 (too long).',
            True,
        ),
    ],
)
def test_an_unusable_answer_fails_its_text_alone(reply, problem, of_endpoint):
    with chat_endpoint(in_turn(reply)) as endpoint:
        answers, error = ask(endpoint.url, 2, concurrency=1)
    assert error is None and len(endpoint.messages) == 2
    assert answers[0].text == '' and problem in answers[0].problem
    assert answers[0].endpoint_failed is of_endpoint
    assert answers[1].text == 'Text 1.'


def test_a_truncated_answer_has_its_tokens():
    with chat_endpoint(
        lambda m: (200, {}, completion('A', 'length', (7, 512)))
    ) as endpoint:
        answers, _ = ask(endpoint.url)
    assert answers[0][2:4] == (7, 512)


def test_requests_run_at_the_same_time():
    barrier = threading.Barrier(16, timeout=60)

    def answer(message):
        barrier.wait()  # passes only when all have arrived
        return draft_of(message)

    with chat_endpoint(answer) as endpoint:
        settings = dict(concurrency=16, retries=0, timeout_seconds=600)
        answers, error = ask(endpoint.url, 32, **settings)
    assert error is None
    assert {n: a.text for n, a in answers.items()} == {
        n: f'Text {n}.' for n in range(32)
    }
    assert endpoint.most == 16


def test_the_rate_is_kept():
    with chat_endpoint() as endpoint:
        start = time.monotonic()
        ask(endpoint.url, 4, requests_per_minute=300, concurrency=4)
    assert max(endpoint.times) - start >= 0.6  # three waits of 0.2 s


def test_the_backend_reports_that_it_waits():
    reported = threading.Event()

    def answer(message):
        assert reported.wait(60)
        return 'x'

    with chat_endpoint(answer) as endpoint:
        waiting = backend(endpoint.url, timeout_seconds=600)
        found = waiting.answers(iter([request(0)]))
        assert next(found) is None and next(found) is None
        reported.set()
        assert [done[1].text for done in found if done] == ['x']


def test_an_abandoned_run_ends():
    with chat_endpoint(lambda m: (503, {}, {})) as endpoint:
        answers = backend(endpoint.url, backoff_seconds=30).answers(
            request(i) for i in range(9)
        )
        assert next(answers) is None
        start = time.monotonic()
        answers.close()
        assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        (
            dict(api_key_env='REPAIR_NO_KEY'),
            'the environment variable REPAIR_NO_KEY holds no key for repair',
        ),
        (
            dict(base_url='localhost:8000/v1'),
            'expected an address that begins with http:// or https://',
        ),
        (dict(base_url='http://[::1'), 'no address of an endpoint'),
    ],
)
def test_settings_of_the_endpoint_are_checked(settings, sentence):
    fields = dict(
        backend='openai',
        model='m',
        base_url='http://127.0.0.1/v1',
        api_key_env='REPAIR_KEY',
    )
    with pytest.raises(ValueError, match='.') as raised:
        OpenAIBackend(RepairSettings(**{**fields, **settings}))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ('headers', 'seconds'),
    [
        ({}, None),
        ({'retry-after': '3'}, 3),
        ({'retry-after': '1.5'}, 1.5),
        ({'retry-after-ms': '250', 'retry-after': '9'}, 0.25),
        ({'retry-after': 'soon'}, None),
        ({'retry-after': '-1'}, None),
        ({'retry-after': 'inf'}, None),
        ({'retry-after': 'Wed, 21 Oct 2015 07:28:00 GMT'}, 0),
    ],
)
def test_retry_after_is_read(headers, seconds):
    assert retry_after(headers) == seconds
