# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Log-probabilities in OpenAI's format, complete and streamed."""

import json
import math

import pytest

from minigpt4.generation.logprobs import TokenLogprob

openai = pytest.importorskip('openai', reason='needs minigpt4[serve]')
pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')
pytest.importorskip('prometheus_client', reason='needs minigpt4[serve]')

from types import SimpleNamespace

from tests.chat_server import DESCRIBE, ask, complete, post, running, url_of

from minigpt4.serving.http.logprob_entries import LogprobEntries


@pytest.fixture(scope='module')
def api(model):
    with running(model) as api:
        yield api


@pytest.fixture(scope='module')
def messages(scenes):
    return ask(DESCRIBE, url_of(scenes[0][1]))


def joined(content) -> str:
    """The text of the bytes of some tokens."""
    found = b''.join(bytes(token.bytes) for token in content)
    return found.decode(errors='replace')


def collect(stream) -> dict[int, tuple[str, list]]:
    """The text and the tokens of each choice of a stream."""
    found = {}
    for event in stream:
        for choice in event.choices:
            text, content = found.setdefault(choice.index, ('', []))
            text += choice.delta.content or ''
            if choice.logprobs:
                content = content + choice.logprobs.content
            found[choice.index] = text, content
            # the tokens of the text so far, and no others
            assert joined(content).strip().startswith(text.rstrip())
            assert joined(content[:-1]).strip() != text or not text
    return found


def assert_close(found, expected) -> None:
    """Compare tokens; batches change the last digits of their scores."""
    assert [token.bytes for token in found] == [
        token.bytes for token in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        values = [likely.logprob for likely in other.top_logprobs]
        assert [likely.logprob for likely in one.top_logprobs] == (
            pytest.approx(values, abs=1e-3)
        )


def test_entries_by_hand(model):
    tokenizer = model.decoder.tokenizer
    red = tokenizer(' red', add_special_tokens=False).input_ids[-1]
    byte = tokenizer.convert_tokens_to_ids('<0xF0>')
    request = SimpleNamespace(
        sampling_params=SimpleNamespace(logprobs=2),
        logprobs=[
            TokenLogprob(red, -0.5, ((red, -0.5), (2, -1.5))),
            TokenLogprob(byte, -math.inf, ()),
        ],
    )
    entries = LogprobEntries(tokenizer)
    content = entries.write(request, 0, 2)['content']
    word = tokenizer.convert_ids_to_tokens(red).replace('\u2581', ' ')
    value = dict(token=word, logprob=-0.5, bytes=list(word.encode()))
    end = dict(token='</s>', logprob=-1.5, bytes=None)
    assert content == [
        dict(**value, top_logprobs=[value, end]),
        dict(token='\ufffd', logprob=-9999.0, bytes=[0xF0], top_logprobs=[]),
    ]
    assert entries.write(request, 1, 1) == dict(content=[], refusal=None)
    json.dumps(content, allow_nan=False)
    request.sampling_params.logprobs = None
    assert entries.write(request, 0, 2) is None


def test_an_answer_with_log_probabilities(api, messages):
    plain = complete(api, messages).choices[0]
    answer = complete(api, messages, logprobs=True, top_logprobs=3)
    choice = answer.choices[0]
    assert plain.logprobs is None
    assert choice.message.content == plain.message.content
    content = choice.logprobs.content
    assert joined(content).strip() == plain.message.content
    assert '#' not in joined(content), 'no stop string'
    assert len(content) < answer.usage.completion_tokens + 1
    for token in content:
        assert bytes(token.bytes).decode() == token.token
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        values = [other.logprob for other in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        # greedy: the token is the likeliest
        assert token.top_logprobs[0].token == token.token
        assert values[0] == token.logprob
        assert sum(map(math.exp, values)) <= 1 + 1e-5
    only = complete(api, messages, logprobs=True).choices[0].logprobs.content
    assert [token.logprob for token in only] == pytest.approx(
        [token.logprob for token in content], abs=1e-4
    )
    assert all(token.top_logprobs == [] for token in only)


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(stop='shapes'),
        dict(stop=['apes o']),
        dict(max_tokens=5),
        dict(temperature=2, seed=1, extra_body=dict(top_k=700, min_tokens=60)),
        dict(temperature=2, seed=2, n=3, extra_body=dict(top_k=700)),
    ],
)
def test_a_stream_has_the_tokens_of_its_text(api, messages, settings):
    settings = dict(settings, logprobs=True, top_logprobs=5)
    full = complete(api, messages, **settings)
    found = collect(complete(api, messages, stream=True, **settings))
    assert len(found) == len(full.choices)
    for choice in full.choices:
        text, content = found[choice.index]
        assert text == choice.message.content
        assert_close(content, choice.logprobs.content)
        whole = joined(content).strip()
        if '\ufffd' not in whole:
            # the token in which a stop string begins is not cut
            assert whole.startswith(text)


def test_tokens_of_a_stop_string_are_omitted(api, messages):
    full = complete(api, messages).choices[0].message.content
    before, stop, _ = full.partition(' on a')
    assert stop
    for text in (' on a', 'on a'):
        answer = complete(api, messages, stop=text, logprobs=True)
        choice = answer.choices[0]
        assert choice.message.content == before
        content = choice.logprobs.content
        assert joined(content).strip() == before
        assert answer.usage.completion_tokens > len(content)


def test_they_do_not_depend_on_the_temperature(api, messages):
    """They are the model's own, before sampling."""
    settings = dict(logprobs=True, top_logprobs=5, max_tokens=1)
    greedy = complete(api, messages, **settings)
    hot = complete(api, messages, temperature=2, seed=1, **settings)

    def values(answer) -> list[float]:
        (token,) = answer.choices[0].logprobs.content
        return [other.logprob for other in token.top_logprobs]

    assert values(hot) == pytest.approx(values(greedy), abs=1e-4)


@pytest.mark.parametrize(
    ('fields', 'param'),
    [
        (dict(top_logprobs=5), 'top_logprobs'),
        (dict(logprobs=False, top_logprobs=5), 'top_logprobs'),
        (dict(logprobs=True, top_logprobs=21), 'top_logprobs'),
        (dict(logprobs=True, top_logprobs=-1), 'top_logprobs'),
        (dict(logprobs=True, top_logprobs=True), 'top_logprobs'),
        (dict(logprobs=True, top_logprobs='5'), 'top_logprobs'),
        (dict(logprobs=5), 'logprobs'),
    ],
)
def test_wrong_requests_for_log_probabilities(api, fields, param):
    body = json.dumps(dict(messages=ask('Who?'), **fields)).encode()
    status, _, content = post(api, body)
    assert status == 400 and content['error']['param'] == param
    assert content['error']['message'].startswith(f'{param} is ')
    assert '\n' not in content['error']['message']
