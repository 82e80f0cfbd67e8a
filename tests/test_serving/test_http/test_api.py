# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The HTTP API: OpenAI's client against a real server on loopback."""

import asyncio
import gzip
import importlib
import json
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from tests.chat_families import new_tokenizer, reference_ids

from minigpt4.nano import grammar

openai = pytest.importorskip('openai', reason='needs minigpt4[serve]')
pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')
pytest.importorskip('prometheus_client', reason='needs minigpt4[serve]')

from tests.chat_server import (
    DESCRIBE,
    NAME,
    PATIENCE,
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

from minigpt4.images.request_images import ImageLimits, ImageSources
from minigpt4.serving.http import completions
from minigpt4.serving.http.connections import ConnectionLimits
from minigpt4.serving.http.hosts import HostRules
from minigpt4.serving.http.parse_request import RequestLimits

BENCHMARKS = Path(__file__).parents[3] / 'benchmarks'
# an answer of 12 seconds with slow_engine
LONG = dict(min_tokens=400, max_tokens=400)


@pytest.fixture(scope='module')
def api(model):
    with running(model) as api:
        yield api


# answers


def test_an_image_is_described(api, scenes):
    scene, image = scenes[0]
    answer = complete(api, ask(DESCRIBE, url_of(image)))
    choice = answer.choices[0]
    assert choice.message.content == grammar.description(scene)
    assert choice.message.role == 'assistant'
    assert choice.finish_reason == 'stop'
    assert answer.model == NAME and answer.object == 'chat.completion'
    assert answer.id.startswith('chatcmpl-')
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens > api.model.neck.num_tokens


def test_a_stream_equals_the_complete_answer(api, scenes):
    messages = ask(DESCRIBE, url_of(scenes[1][1]))
    full = complete(api, messages)
    with slow_engine(api):  # else a busy machine may join all pieces
        events = list(
            complete(
                api,
                messages,
                stream=True,
                stream_options=dict(include_usage=True),
            )
        )
    pieces = [e.choices[0].delta.content for e in events if e.choices]
    assert ''.join(filter(None, pieces)) == full.choices[0].message.content
    assert len(pieces) > 3
    assert events[0].choices[0].delta.role == 'assistant'
    reasons = [e.choices[0].finish_reason for e in events if e.choices]
    assert reasons == [None] * (len(reasons) - 1) + ['stop']
    assert not events[-1].choices
    usage = events[-1].usage
    assert usage.completion_tokens == full.usage.completion_tokens
    assert all(event.usage is None for event in events[:-1])
    plain = list(complete(api, messages, stream=True))
    assert all(event.choices for event in plain)
    texts = [event.choices[0].delta.content or '' for event in plain]
    assert ''.join(texts) == full.choices[0].message.content


def test_stop_strings_are_never_streamed_in_part(api, scenes):
    messages = ask(DESCRIBE, url_of(scenes[1][1]))
    full = text_of(api, messages)
    stop = full[20:34]  # starts and ends within words
    for settings in (dict(stop=stop), dict(stop=['no such text', stop])):
        answer = complete(api, messages, **settings)
        assert answer.choices[0].message.content == full[:20].rstrip()
        assert answer.choices[0].finish_reason == 'stop'
        received = ''
        for event in complete(api, messages, stream=True, **settings):
            received += event.choices[0].delta.content or ''
            assert full[:20].startswith(received)
    assert '#' not in full and 'Human' not in full


def test_several_images_and_no_image(api, scenes):
    first, second = (url_of(image) for _, image in scenes[:2])
    both = complete(api, ask('How many shapes are there?', first, second))
    one = complete(api, ask('How many shapes are there?', first))
    extra = both.usage.prompt_tokens - one.usage.prompt_tokens
    assert extra >= api.model.neck.num_tokens
    none = complete(api, [dict(role='user', content='Who are you?')])
    assert none.choices[0].message.content
    assert none.usage.prompt_tokens < api.model.neck.num_tokens


def test_a_follow_up_question_reuses_the_prefix_cache(api, scenes):
    messages = ask(DESCRIBE, url_of(scenes[2][1]))
    first = complete(api, messages)
    messages.append(first.choices[0].message.model_dump())
    messages += ask('How many shapes are there?')
    second = complete(api, messages)
    cached = second.usage.prompt_tokens_details.cached_tokens
    known = first.usage.prompt_tokens + first.usage.completion_tokens
    assert known - 3 <= cached <= known
    new = second.usage.prompt_tokens - cached
    assert new < 30
    messages.append(second.choices[0].message.model_dump())
    messages += ask('Write a poem.')
    third = complete(api, messages)
    assert (
        third.usage.prompt_tokens_details.cached_tokens
        >= second.usage.prompt_tokens
    )


def test_the_prefix_cache_does_not_change_answers(model, api, scenes):
    messages = ask(DESCRIBE, url_of(scenes[3][1]))
    for question in ('How many shapes are there?', 'Write a poem.'):
        messages.append(dict(role='assistant', content=text_of(api, messages)))
        messages += ask(question)
    warm = complete(api, messages)
    with running(model) as fresh:
        cold = complete(fresh, messages)
    assert cold.usage.prompt_tokens_details.cached_tokens == 0
    assert warm.usage.prompt_tokens_details.cached_tokens > 0
    assert warm.choices[0].message == cold.choices[0].message


def test_a_system_message_replaces_the_system_line(api, scenes):
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    plain = complete(api, messages).usage.prompt_tokens
    system = dict(role='system', content='Answer in a single short sentence.')
    replaced = complete(api, [system, *messages]).usage.prompt_tokens
    assert replaced != plain


def test_sampling_parameters(api, scenes):
    messages = ask(DESCRIBE, url_of(scenes[1][1]))
    full = complete(api, messages)
    short = complete(api, messages, max_tokens=4)
    assert short.choices[0].finish_reason == 'length'
    assert short.usage.completion_tokens == 4
    text = short.choices[0].message.content
    assert full.choices[0].message.content.startswith(text)
    greedy = text_of(api, messages, temperature=0)
    assert greedy == full.choices[0].message.content

    def sample(seed: int) -> str:
        return text_of(
            api,
            messages,
            temperature=2,
            seed=seed,
            max_tokens=20,
            extra_body=dict(top_k=500),
        )

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1
    with pytest.raises(openai.BadRequestError, match='--max-beams'):
        complete(api, messages, extra_body=dict(num_beams=3))


def test_beam_search_if_the_operator_allows_it(model, scenes):
    messages = ask(DESCRIBE, url_of(scenes[1][1]))
    with running(model, limits=RequestLimits(beams=3)) as api:
        stream = complete(
            api, messages, stream=True, extra_body=dict(num_beams=3)
        )
        texts = [event.choices[0].delta.content for event in stream]
    assert texts[0] == grammar.description(scenes[1][0])  # in one piece


def test_concurrent_requests_match_single_requests(api, scenes):
    questions = [DESCRIBE, 'How many shapes are there?']
    work = [
        (ask(question, url_of(image)), stream)
        for question in questions
        for _, image in scenes
        for stream in (False, True)
    ]

    def answer(item) -> str:
        messages, stream = item
        if not stream:
            return text_of(api, messages)
        return ''.join(
            event.choices[0].delta.content or ''
            for event in complete(api, messages, stream=True)
        )

    single = [answer(item) for item in work[::2]]
    with ThreadPoolExecutor(24) as pool:
        concurrent = list(pool.map(answer, work))
    assert concurrent[::2] == concurrent[1::2] == single
    assert len(set(single)) > 8


# other endpoints


def test_models(api):
    assert [m.id for m in api.client.models.list()] == [NAME]
    assert api.client.models.retrieve(NAME).owned_by == 'minigpt4'
    for call in (
        lambda: api.client.models.retrieve('gpt-5'),
        lambda: api.client.chat.completions.create(
            model='gpt-5', messages=ask('Hello')
        ),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert caught.value.code == 'model_not_found'
        assert NAME in caught.value.message


def test_health_and_metrics(model, scenes):
    with running(model) as api:
        status, health = get(api, '/health')
        assert status == 200
        assert json.loads(health)['status'] == 'ok'
        messages = ask(DESCRIBE, url_of(scenes[0][1]))
        usage = complete(api, messages).usage
        complete(api, messages)
        post(api, b'nonsense')
        lines = get(api, '/metrics')[1].splitlines()
        counts = dict(line.rsplit(' ', 1) for line in lines if line[:1] != '#')
        expected = {
            'requests_total{status="200"}': 2,
            'requests_total{status="400"}': 1,
            'tokens_total{kind="prompt"}': 2 * usage.prompt_tokens,
            'tokens_total{kind="cached"}': usage.prompt_tokens - 1,
            'tokens_total{kind="completion"}': 2 * usage.completion_tokens,
            'images_total': 2,
            'running': 0,
            'waiting': 0,
            'first_token_seconds_count': 2,
            'answer_seconds_bucket{le="+Inf"}': 2,
        }
        for name, count in expected.items():
            assert float(counts[f'minigpt4_{name}']) == count, name


def test_unknown_paths_and_methods(api):
    for path in ('/nothing', '/v1/embeddings', '/', '/v1/chat'):
        status, content = get(api, path)
        error = json.loads(content)['error']
        assert status == 404 and 'there is no GET' in error['message']
    status, content = get(api, '/v1/chat/completions')
    assert status == 405 and 'POST' in json.loads(content)['error']['message']


# admission


def test_the_api_key(model, scenes):
    with running(model, api_key='secret') as api:
        assert text_of(api, ask('Who are you?'))
        other = api.client.with_options(api_key='wrong')
        for call in (
            lambda: other.models.list(),
            lambda: other.chat.completions.create(
                model=NAME, messages=ask('Who are you?')
            ),
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert caught.value.code == 'invalid_api_key'
        for value in ('', 'secret', 'Basic secret', 'Bearer', 'Bearer secre'):
            status, headers, _ = post(api, b'{}', {'Authorization': value})
            assert status == 401 and headers['WWW-Authenticate'] == 'Bearer'
        assert get(api, '/health')[0] == 200


def test_a_full_queue_returns_429_with_retry_after(model, scenes):
    with running(model, slots=1, max_waiting=1) as api:
        messages = ask(DESCRIBE, url_of(scenes[0][1]))

        def attempt(_) -> str:
            try:
                return text_of(api, messages)
            except openai.RateLimitError as error:
                assert int(error.response.headers['Retry-After']) >= 1
                assert error.code == 'queue_full'
                assert 'try again in' in error.message
                return '429'

        with held_engine(api) as allow, ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(attempt, number) for number in range(6)]
            until(lambda: sum(job.done() for job in jobs) == 4)
            allow()
            answers = [job.result() for job in jobs]
        truth = grammar.description(scenes[0][0])
        assert answers.count(truth) == 2 and answers.count('429') == 4
        assert text_of(api, messages) == truth
        # the official client retries after that time, and is admitted
        with slow_engine(api), ThreadPoolExecutor(3) as pool:
            patient = api.client.with_options(max_retries=20)
            jobs = [
                pool.submit(
                    patient.chat.completions.create,
                    model=NAME,
                    messages=messages,
                    max_tokens=3,
                )
                for _ in range(3)
            ]
            assert all(job.result().choices for job in jobs)


def test_a_disconnect_cancels_the_answer(model, scenes):
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    body = json.dumps(dict(messages=messages, **LONG))
    head = (
        'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n'
        'Content-Type: application/json\r\n'
        f'Content-Length: {len(body)}\r\n\r\n'
    )
    with running(model) as api, slow_engine(api):
        worker, submitted = api.worker, []
        submit = worker.submit

        def record(*args, **settings):
            submitted.append(submit(*args, **settings))
            return submitted[-1]

        worker.submit = record
        with socket.create_connection(('127.0.0.1', api.port)) as client:
            client.sendall((head + body).encode())
            until(lambda: worker.running == 1)
        until(lambda: worker.running == 0)
        # before the body is complete
        with socket.create_connection(('127.0.0.1', api.port)) as client:
            client.sendall((head + body[:100]).encode())
            until(lambda: api.gate.in_flight == 1)
        until(lambda: api.gate.in_flight == 0)
        # during a stream
        stream = complete(api, messages, stream=True, extra_body=LONG)
        for event in stream:
            if event.choices[0].delta.content:
                break
        assert worker.running == 1
        stream.close()
        until(lambda: worker.unfinished == 0)
        counted = 'minigpt4_requests_total{status="499"} 3.0'
        until(lambda: counted in get(api, '/metrics')[1])
        until(lambda: api.gate.in_flight == 0)
        assert [g.finish_reason for g in submitted] == ['cancelled'] * 2


def test_a_request_has_a_time_limit(model, scenes):
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    limits = RequestLimits(seconds=0.3)
    with running(model, limits=limits) as api, slow_engine(api, 0.05):
        with pytest.raises(openai.InternalServerError) as caught:
            complete(api, messages, extra_body=LONG)
        assert caught.value.status_code == 503
        assert 'longer than 0.3 seconds' in caught.value.message
        with pytest.raises(openai.APIError, match='longer than 0.3 sec'):
            list(complete(api, messages, stream=True, extra_body=LONG))
        until(lambda: api.worker.running == 0)
        until(lambda: api.gate.in_flight == 0)


def test_a_stop_finishes_running_answers_and_refuses_new_requests(
    model, scenes
):
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    truth = grammar.description(scenes[0][0])
    with running(model) as api:
        with held_engine(api) as allow, ThreadPoolExecutor(3) as pool:
            full = pool.submit(text_of, api, messages)
            stream = pool.submit(complete, api, messages, stream=True)
            until(lambda: api.worker.unfinished == 2)
            allow(1)
            until(lambda: api.worker.running == 2)
            api.server.handle_exit(15, None)
            with pytest.raises(openai.APIStatusError) as caught:
                complete(api, messages)
            assert caught.value.status_code == 503
            assert 'Retry-After' in caught.value.response.headers
            assert 'stopping' in caught.value.message
            status, health = get(api, '/health')
            assert status == 503
            assert json.loads(health)['status'] == 'stopping'
            allow()
            assert full.result() == truth
            events = list(stream.result())
            pieces = [e.choices[0].delta.content or '' for e in events]
            assert ''.join(pieces) == truth
        until(lambda: api.server.should_exit)


def test_a_second_signal_cuts_answers_off_with_an_error(model, scenes):
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    with running(model) as api:
        with slow_engine(api), ThreadPoolExecutor(1) as pool:
            full = pool.submit(text_of, api, messages, extra_body=LONG)
            stream = iter(
                complete(api, messages, stream=True, extra_body=LONG)
            )
            next(stream)
            until(lambda: api.worker.running == 2)
            api.server.handle_exit(2, None)
            api.server.handle_exit(2, None)
            with pytest.raises(openai.APIError, match='before the answer'):
                list(stream)
            with pytest.raises(openai.APIStatusError) as caught:
                full.result()
            assert caught.value.status_code == 503
        until(lambda: api.server.should_exit)


def test_a_failure_of_the_engine_is_reported(model, scenes, monkeypatch):
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    with running(model) as api:

        def broken(*args, **settings):
            raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')

        with monkeypatch.context() as patch:
            patch.setattr(type(model.backbone), 'forward', broken)
            for stream in (False, True):
                with pytest.raises(openai.InternalServerError) as caught:
                    complete(api, messages, stream=stream)
                assert 'out of memory' in caught.value.message
        assert text_of(api, messages) == grammar.description(scenes[0][0])


def test_an_unexpected_exception_is_reported(model, monkeypatch):
    def broken(*args, **settings):
        raise KeyError('oops')

    with running(model) as api, monkeypatch.context() as patch:
        patch.setattr(completions, 'build_prompt', broken)
        with pytest.raises(openai.InternalServerError, match='KeyError'):
            complete(api, ask('Hello'))


# limits


def test_refused_images(api, scenes):
    good = url_of(scenes[0][1])
    bad = {
        'data:image/png;base64,!!!': 'is broken',
        'data:image/png;base64,AAAA': 'cannot be read',
        'file:///etc/passwd': 'are not allowed',
        'http://127.0.0.1:1/a.png': 'not public',
        f'{api.url}/health': 'not public',
        'http://169.254.169.254/latest': 'not public',
        'cat.png': 'not a supported URL',
    }
    for url, why in bad.items():
        with pytest.raises(openai.BadRequestError, match=why) as caught:
            complete(api, ask(DESCRIBE, url))
        assert caught.value.code == 'invalid_image'
        with pytest.raises(openai.BadRequestError, match='image 2 of 2: '):
            complete(api, ask(DESCRIBE, good, url))


def test_limits_of_requests_and_images(model, scenes, tmp_path):
    image = scenes[0][1]
    image.save(tmp_path / 'a.png')
    sources = ImageSources(
        ImageLimits(bytes=20_000, pixels=64 * 64), folder=tmp_path
    )
    limits = RequestLimits(body=50_000, images=2, max_tokens=50)
    with running(model, sources=sources, limits=limits) as api:
        messages = ask(DESCRIBE, 'file:a.png')
        truth = grammar.description(scenes[0][0])
        assert text_of(api, messages) == truth
        wide = url_of(image.resize((65, 64)))
        heavy = 'data:image/bmp;base64,' + 'A' * 30_000
        for messages, settings, why in (
            (ask('a', wide), {}, '65 x 64 pixels; at most 4,096'),
            (ask('a', heavy), {}, 'at most 20,000 are allowed'),
            (ask('a', *[url_of(image)] * 3), {}, 'more than 2 images'),
            (ask('a'), dict(max_tokens=51), 'from 1 to 50'),
            (ask('a b ' * 2000), {}, 'do|takes'),
        ):
            with pytest.raises(openai.BadRequestError, match=why):
                complete(api, messages, **settings)
        for body in (b' ' * 60_000, b' ' * 5_000_000):
            status, _, content = post(api, body)
            assert status == 413 and '50,000' in content['error']['message']

        def chunks():
            for _ in range(100):
                yield b' ' * 1000

        status, _, content = post(api, chunks())
        assert status == 413
        status, _, content = post(api, b'{}', {'Content-Type': 'text/plain'})
        assert status == 415
        assert 'application/json' in content['error']['message']


def test_other_errors_have_no_context_length_code(api):
    for messages, settings, word in (
        (ask('Who?'), dict(max_tokens=5, extra_body=dict(min_tokens=9)), '9'),
        (ask('Who\x07?'), {}, 'control character'),
    ):
        with pytest.raises(openai.BadRequestError, match=word) as caught:
            complete(api, messages, **settings)
        assert caught.value.code != 'context_length_exceeded'


def test_a_conversation_beyond_the_context(api, scenes):
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    for _ in range(60):
        messages.append(dict(role='assistant', content='It is red. ' * 10))
        messages += ask('How many shapes are there?')
    with pytest.raises(openai.BadRequestError, match='do not fit') as caught:
        complete(api, messages)
    assert caught.value.code == 'context_length_exceeded'
    answer = complete(api, messages, extra_body=dict(truncation='auto'))
    assert 'oldest' in answer.notice and 'images kept' in answer.notice
    assert answer.choices[0].message.content
    stream = complete(
        api, messages, stream=True, extra_body=dict(truncation='auto')
    )
    assert 'oldest' in next(iter(stream)).notice


def test_malformed_requests_leave_no_trace(api, scenes, monkeypatch):
    """A short run of benchmarks/serve_fuzz.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fuzz = importlib.import_module('serve_fuzz')
    load = importlib.import_module('serve_load')
    content = load.chat(DESCRIBE, url_of(scenes[0][1]))
    requests = list(fuzz.malformed(random.Random(1), content, 300))
    assert len({kind for kind, _ in requests}) == 8
    threads = threading.active_count()
    outcomes = asyncio.run(fuzz.send_all(api.port, requests))
    assert sum(outcomes.values()) == 300
    assert {outcome for _, outcome in outcomes} == {'refused', 'cut'}, outcomes
    until(lambda: api.gate.idle)
    assert api.gate.body_bytes == 0
    # but for thread pools; a look-up of a name ends later
    until(lambda: threading.active_count() <= threads + 8)
    truth = grammar.description(scenes[0][0])
    assert text_of(api, content['messages']) == truth


def test_the_fuzz_detects_wrong_answers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fuzz = importlib.import_module('serve_fuzz')
    reply = importlib.import_module('serve_load').Reply
    error = json.dumps(dict(error=dict(message='That is not right.')))
    assert fuzz.judge(reply(400, error.encode())) == 'refused'
    for bad in (
        reply(500, error.encode()),
        reply(200, b'{}'),
        reply(0),
        reply(400, b'Bad Request'),
        reply(400, b'Traceback (most recent call last):\n  File x.'),
    ):
        assert fuzz.judge(bad) != 'refused'


# clients that occupy a server, and other sites


def partial_request(
    api, sent: bytes = b'{', length: int = 1000
) -> socket.socket:
    """A connection whose request is incomplete."""
    client = socket.create_connection(('127.0.0.1', api.port))
    client.sendall(
        b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n'
        b'Content-Type: application/json\r\n'
        b'Content-Length: %d\r\n\r\n%b' % (length, sent)
    )
    return client


def read_all(client: socket.socket) -> bytes:
    """Read until a connection is closed."""
    client.settimeout(PATIENCE)
    return b''.join(iter(lambda: client.recv(65536), b''))


def test_incomplete_requests_take_no_capacity(model):
    with running(model, slots=1, max_waiting=1) as api:
        clients = [partial_request(api) for _ in range(6)]
        until(lambda: api.gate.in_flight == 6)
        assert api.gate.admitted == 0
        assert text_of(api, ask('Who are you?'))
        for client in clients:
            client.close()
        until(lambda: api.gate.in_flight == 0)


def test_a_slow_body_is_refused_in_time(model):
    # after a pause of the machine the connection may be closed first
    limits = ConnectionLimits(body_seconds=60)
    with running(model, body_seconds=0.2, connections=limits) as api:
        with partial_request(api) as client:
            answer = read_all(client)
        assert b' 408 ' in answer and b'within 0.2 seconds' in answer


def test_small_requests_are_read_while_large_bodies_take_the_memory(model):
    limits = RequestLimits(body=2**20)
    with running(model, limits=limits) as api, api.gate.track_bytes(5 * 2**20):
        assert text_of(api, ask('Who are you?'))
        status, headers, _ = post(api, b' ' * 2**19)
        assert status == 429 and headers['Retry-After']


def test_requests_per_client_are_limited(model, scenes):
    limits = RequestLimits(client_requests=1)
    messages = ask(DESCRIBE, url_of(scenes[0][1]))
    with running(model, limits=limits) as api:
        with held_engine(api) as allow, ThreadPoolExecutor(1) as pool:
            first = pool.submit(text_of, api, messages)
            until(lambda: api.gate.admitted == 1)
            with pytest.raises(openai.RateLimitError, match='127.0.0.1'):
                complete(api, messages)
            allow()
            assert first.result()
        assert text_of(api, messages)
        assert not api.gate.clients


def test_a_client_that_reads_nothing_takes_no_capacity(
    model, scenes, monkeypatch
):
    """Its answer is finished, though it cannot be sent."""
    body = json.dumps(
        dict(messages=ask(DESCRIBE, url_of(scenes[0][1])), stream=True)
    ).encode()
    with running(model, slots=1, max_waiting=1) as api:
        started, end = threading.Event(), threading.Event()
        send = completions.send_events

        async def stuck(*args):
            started.set()
            await asyncio.to_thread(end.wait, 2 * PATIENCE)
            await send(*args)

        monkeypatch.setattr(completions, 'send_events', stuck)
        with partial_request(api, body, len(body)):
            assert started.wait(PATIENCE)
            assert api.gate.in_flight == 1
            until(lambda: api.gate.admitted == 0)
            end.set()
        until(lambda: api.gate.in_flight == 0)


def test_large_json_is_parsed_in_a_thread(model, monkeypatch):
    parse, threads = completions.parse_request, []

    def record_thread(*args):
        threads.append(threading.current_thread().name)
        return parse(*args)

    monkeypatch.setattr(completions, 'parse_request', record_thread)
    with running(model) as api:
        assert post(api, b'{"metadata": "%b"}' % (b'x' * 10**6))[0] == 400
        assert 'parsers' in threads[-1]
        assert post(api, b'{"metadata": "%b"}' % (b'\\u00e9' * 1_000_001))[2][
            'error'
        ]['message'].startswith('the body has more than 1,000,000')


def test_other_sites_are_refused_unless_allowed(model):
    body = json.dumps(dict(messages=ask('Who are you?'))).encode()
    rules = HostRules(['chat.example.com'], ['https://page.example'])
    with running(model, hosts=rules) as api:

        def send(**headers):
            return post(api, body, headers)

        assert send()[0] == send(Host='chat.example.com')[0] == 200
        for headers in (
            dict(Host='evil.example'),
            dict(Origin='http://evil.example'),
            dict(Origin='null'),
            dict(Host='chat.example.com', Origin='http://evil.example'),
        ):
            status, fields, content = send(**headers)
            assert status == 403
            assert content['error']['type'] == 'permission_error'
            assert 'access-control-allow-origin' not in fields
        status, fields, _ = send(Origin='https://page.example')
        assert status == 200
        assert fields['Access-Control-Allow-Origin'] == 'https://page.example'


def test_a_stop_refuses_incomplete_requests(model):
    with running(model) as api, partial_request(api) as client:
        until(lambda: api.gate.in_flight == 1)
        api.server.handle_exit(15, None)
        answer = read_all(client)
        assert b' 503 ' in answer and b'stopping' in answer
        until(lambda: api.server.should_exit)
        assert api.server.cut == 0


def test_a_compressed_body_is_refused(api):
    """With the encoding in its error (Ollama #12386)."""
    body = gzip.compress(json.dumps(dict(messages=ask('Hello'))).encode())
    status, _, content = post(api, body, {'Content-Encoding': 'gzip'})
    assert status == 415 and 'gzip' in content['error']['message']
    plain = json.dumps(dict(messages=ask('Hello'))).encode()
    assert post(api, plain, {'Content-Encoding': 'identity'})[0] == 200


def test_author_names_and_empty_answers_are_accepted(api):
    """As OpenAI documents them (vllm #12864 and #10463)."""
    messages = [
        dict(role='user', name='bob', content='Who are you?'),
        dict(role='assistant', content=None, refusal=None),
        dict(role='user', content='Who are you?'),
    ]
    assert text_of(api, messages)
    with pytest.raises(openai.BadRequestError, match='name is a number'):
        complete(api, [dict(role='user', name=7, content='Hello')])


def test_chat_template_of_the_llm(build_chat):
    """A request has the prompt of transformers, with images in two turns."""
    model = build_chat('llama_3').eval()
    gray = url_of(Image.new('RGB', (28, 28), 'gray'))
    messages = [
        dict(role='system', content='Be brief. '),
        *ask('What is it?', gray),
        dict(role='assistant', content='A circle.'),
        *ask('And this?', gray),
    ]
    with running(model) as api:
        answer = complete(api, messages, max_tokens=4)
    wrapped = '<Img><image></Img>'
    tokenizer = new_tokenizer('llama_3')
    tokenizer.add_tokens(['<image>'], special_tokens=True)
    ids = reference_ids(
        tokenizer,
        [
            dict(role='system', content='Be brief.'),
            dict(role='user', content=f'{wrapped} What is it?'),
            dict(role='assistant', content='A circle.'),
            dict(role='user', content=f'{wrapped} And this?'),
        ],
    )
    image_tokens = 2 * (model.neck.num_tokens - 1)
    assert answer.usage.prompt_tokens == len(ids) + image_tokens
    assert answer.usage.completion_tokens <= 4
