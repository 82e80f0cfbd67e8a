# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parse requests in OpenAI's format; refuse malformed ones."""

import json
import re
import time

import pytest

from minigpt4.prompts import TEMPLATES, Turn

pytest.importorskip('starlette', reason='needs minigpt4[serve]')

from minigpt4.serving.http.errors import BadRequest
from minigpt4.serving.http.parse_request import (
    IGNORED,
    RequestLimits,
    parse_request,
)

TEMPLATE = TEMPLATES['vicuna_v0']
ASK = dict(role='user', content='What is this?')


def image(url: str = 'data:a') -> dict:
    return dict(type='image_url', image_url=dict(url=url))


def text(words: str) -> dict:
    return dict(type='text', text=words)


def user(*parts) -> dict:
    return dict(role='user', content=list(parts))


def parse(messages=(ASK,), **fields):
    body = json.dumps(dict(messages=messages, **fields)).encode()
    limits = RequestLimits(beams=3)
    return parse_request(body, TEMPLATE, 'Describe it.', limits)


def refused(messages=(ASK,), **fields) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse(messages, **fields)
    text_ = str(caught.value)
    assert text_.isascii() and '\n' not in text_ and len(text_) < 400
    return caught.value


# messages


def test_a_conversation_is_converted_to_turns():
    request = parse(
        [
            dict(role='system', content='Be short.'),
            user(image('a'), text('What is this?')),
            dict(role='assistant', content='A cat.', refusal=None),
            user(text('And this?'), image('b')),
        ]
    )
    assert request.system == 'Be short.'
    assert request.images == ['a', 'b']
    assert request.turns == [
        Turn('<ImageHere> What is this?', 'A cat.'),
        # an image without text after it is moved to the front, as in training
        Turn('<ImageHere> And this?'),
    ]
    assert parse().system is None


@pytest.mark.parametrize(
    ('parts', 'question'),
    [
        ([image()], '<ImageHere> Describe it.'),
        ([image(), image()], '<ImageHere> <ImageHere> Describe it.'),
        ([image(), text('')], '<ImageHere> Describe it.'),
        ([text('a'), image(), text('b')], 'a <ImageHere> b'),
        ([text('a'), text('b'), image()], '<ImageHere> a b'),
        ([text('a')], 'a'),
    ],
)
def test_positions_of_image_slots(parts, question):
    assert parse([user(*parts)]).turns == [Turn(question)]


def test_consecutive_user_messages_are_one_question():
    request = parse([user(text('This:')), user(image(), text('what is it?'))])
    assert request.turns == [Turn('This:\n<ImageHere> what is it?')]


def test_an_image_url_may_be_a_text():
    part = dict(type='image_url', image_url='data:a')
    assert parse([user(part, text('b'))]).images == ['data:a']


def test_a_system_message_without_content_is_as_if_omitted():
    request = parse([dict(role='system', content=None), ASK])
    assert request.system is None and request.turns == [Turn('What is this?')]


def test_the_bare_template_adds_no_space():
    body = json.dumps(dict(messages=[user(image())])).encode()
    request = parse_request(body, TEMPLATES['bare'], '')
    assert request.turns == [Turn('<ImageHere>')]


@pytest.mark.parametrize(
    ('messages', 'why'),
    [
        ([], 'messages is an empty list'),
        ('hello', 'messages is a text'),
        ([5], r'messages\[0\] is a number'),
        ([dict(content='a')], r'messages\[0\].role is null'),
        ([dict(role='tool', content='a')], 'role is "tool"'),
        ([dict(role='user')], 'content is missing'),
        ([dict(role='user', content=5)], 'content is a number'),
        ([dict(role='user', content=[])], 'is empty; ask something'),
        ([dict(role='user', content='')], 'is empty; ask something'),
        ([dict(ASK, audio={'id': 'a'})], 'has "audio", which is not supp'),
        ([dict(ASK, name=5)], 'name is a number'),
        ([dict(ASK, tool_calls=[{}])], 'has "tool_calls"'),
        ([user('a')], 'is not a supported part'),
        ([user(dict(type='input_audio'))], 'type "input_audio"'),
        ([user(dict(type='text'))], 'text is missing'),
        ([user(dict(type='image_url', image_url=['a']))], 'is a list'),
        ([user(dict(type='image_url', image_url={}))], 'url is missing'),
        ([user(text('an <ImageHere>'))], 'holds <ImageHere>'),
        ([user(text('\ud800'))], 'half a character'),
        (
            [dict(role='assistant', content='a')],
            'not allowed at this position',
        ),
        ([ASK, dict(role='assistant', content='a')], 'nothing to answer'),
        (
            [ASK, dict(role='system', content='a')],
            'not allowed at this position',
        ),
        ([dict(role='system', content='a')], 'nothing to answer'),
        ([dict(role='system', content=[image()]), ASK], 'with an image'),
        ([user(*[image()] * 9)], 'more than 8 images'),
        ([user(*[text('a')] * 1001)], '1001 parts'),
        ([ASK] * 1001, '1001 messages'),
        ([dict(role='user', content='a' * 100_001)], 'more than 100,000'),
    ],
)
def test_refused_messages(messages, why):
    error = refused(messages)
    assert error.param and error.param.startswith('messages')
    assert re.search(why, str(error)), str(error)


# sampling parameters


@pytest.mark.parametrize(
    ('fields', 'settings'),
    [
        ({}, {}),  # the model's own setting: greedy
        (dict(temperature=0), dict(do_sample=False)),
        (dict(temperature=1e-300), dict(do_sample=False)),
        (dict(temperature=0, top_p=0.5), dict(do_sample=False)),
        (dict(temperature=1), dict(do_sample=True, temperature=1)),
        (dict(temperature=None, top_p=None), {}),
        (dict(top_p=1), {}),
        (dict(top_p=0.9), dict(do_sample=True, top_p=0.9)),
        (dict(top_k=5), dict(do_sample=True, top_k=5)),
        (dict(seed=-3), dict(seed=-3)),
        (dict(max_tokens=7), dict(max_new_tokens=7)),
        (dict(max_completion_tokens=7.0), dict(max_new_tokens=7)),
        (dict(max_tokens=7, max_completion_tokens=7), dict(max_new_tokens=7)),
        (dict(min_tokens=2), dict(min_new_tokens=2)),
        (dict(stop='a'), dict(stop=['a'])),
        (dict(stop=['a', 'b']), dict(stop=['a', 'b'])),
        (dict(logprobs=True), dict(logprobs=0)),
        (dict(logprobs=True, top_logprobs=20), dict(logprobs=20)),
        (dict(logprobs=True, top_logprobs=0.0), dict(logprobs=0)),
        (dict(logprobs=False, top_logprobs=0), {}),
        (dict(logprobs=None, top_logprobs=None), {}),
        (dict(n=3), {}),
        (dict(num_beams=3, length_penalty=-1), None),
        (dict(repetition_penalty=1.05), None),
    ],
)
def test_sampling_parameters_are_converted(fields, settings):
    expected = fields if settings is None else settings
    assert parse(**fields).settings == expected


def test_default_values_and_ignored_parameters_are_accepted():
    request = parse(
        n=1,
        frequency_penalty=0,
        presence_penalty=0.0,
        logprobs=False,
        logit_bias={},
        tools=[],
        tool_choice='none',
        response_format=dict(type='text'),
        modalities=['text'],
        best_of=1,
        skip_special_tokens=True,
        use_beam_search=False,
        stop_token_ids=[],
        **dict.fromkeys(IGNORED, 'x'),
    )
    assert request.settings == {} and request.choices == 1
    assert {'dataset', 'timeout'} <= IGNORED
    assert parse(n=8).choices == 8 and parse(n=2.0).choices == 2


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('n', 0),
        ('n', 9),
        ('n', 1.5),
        ('n', '2'),
        ('n', True),
        ('n', -1),
        ('logprobs', 0),
        ('logprobs', 5),
        ('logprobs', 'true'),
        ('top_logprobs', 3),  # without logprobs
        ('best_of', 2),
        ('skip_special_tokens', False),
        ('tools', [dict(type='function')]),
        ('tool_choice', 'auto'),
        ('functions', [{}]),
        ('response_format', dict(type='json_object')),
        ('logit_bias', {'1': 5}),
        ('frequency_penalty', 0.5),
        ('presence_penalty', -1),
        ('modalities', ['text', 'audio']),
        ('audio', {}),
        ('reasoning_effort', 'low'),
        ('prediction', {}),
        ('web_search_options', {}),
        ('max_new_tokens', 5),
        ('a\nb\u00e9', 1),
        ('temperature', -0.1),
        ('temperature', 2.1),
        ('temperature', '1'),
        ('temperature', True),
        ('temperature', float('nan')),
        ('temperature', 10**400),
        ('top_p', 1.5),
        ('top_k', 0),
        ('max_tokens', 0),
        ('max_tokens', 2049),
        ('max_tokens', 1.5),
        ('max_tokens', 1e300),
        ('seed', 2**63),
        ('num_beams', 4),
        ('num_beams', 101),
        ('length_penalty', 1.5),  # without num_beams
        ('stop', ''),
        ('stop', ['']),
        ('stop', list('abcde')),
        ('stop', 'a' * 101),
        ('stop', {}),
        ('stop', '\udfff'),
        ('stream', 'yes'),
        ('stream', 1),
        ('stream_options', dict(include_usage=True)),  # without stream
        ('stream_options', 5),
        ('model', 5),
        ('model', '\ud800'),
        ('truncation', 'left'),
    ],
)
def test_refused_parameters_are_named(name, value):
    error = refused(**{name: value})
    assert json.dumps(name)[1:-1] in str(error)
    assert error.param


@pytest.mark.parametrize('value', [21, -1, True, '5', 1.5, [5]])
def test_refused_numbers_of_top_logprobs(value):
    error = refused(logprobs=True, top_logprobs=value)
    assert error.param == 'top_logprobs'
    assert 'expected a whole number from 0 to 20' in str(error)


def test_top_logprobs_need_logprobs():
    for fields in ({}, dict(logprobs=False)):
        error = refused(top_logprobs=5, **fields)
        assert str(error) == (
            'top_logprobs is 5 without "logprobs": true; send both, or '
            'neither.'
        )
    error = refused(logprobs=True, num_beams=3)
    assert error.param == 'logprobs' and 'num_beams 3' in str(error)


def test_two_different_token_limits_are_refused():
    error = refused(max_tokens=5, max_completion_tokens=6)
    assert 'send only one of them' in str(error)


def test_stream_options():
    assert not parse().stream
    request = parse(stream=True, stream_options=dict(include_usage=True))
    assert request.stream and request.include_usage
    assert not parse(stream=True).include_usage
    assert 'stream_options' in str(
        refused(stream=True, stream_options=dict(a=1))
    )


# bodies


@pytest.mark.parametrize(
    ('body', 'why'),
    [
        (b'', 'not JSON'),
        (b'{', 'not JSON'),
        (b'\xff\xfe', 'not JSON'),
        (b'[]', 'an empty list'),
        (b'5', 'a number'),
        (b'null', 'missing'),
        (b'{}', 'messages are missing'),
        (b'{"messages": null}', 'messages are missing'),
        (b'[' * 100_000, 'nested too deeply'),
        (b'{"a":' * 50_000, 'nested too deeply'),
        (b'{"n": ' + b'9' * 5000 + b'}', 'not JSON'),
        (b'[' + b'[],' * 200_000 + b'[]]', 'more lists and fields'),
    ],
)
def test_refused_bodies(body, why):
    with pytest.raises(BadRequest, match=why):
        parse_request(body, TEMPLATE)


def test_a_large_data_url_is_parsed():
    body = json.dumps(dict(messages=[user(image('data:,' + 'A' * 10**7))]))
    began = time.perf_counter()
    assert len(parse_request(body.encode(), TEMPLATE).images[0]) > 10**7
    assert time.perf_counter() - began < 5


def test_limits_of_the_operator_apply():
    limits = RequestLimits(images=0, max_tokens=5, text=3, choices=2)
    for fields, why in (
        (dict(messages=[user(image())]), 'more than 0 images'),
        (dict(messages=[user(text('ab'))], max_tokens=6), 'from 1 to 5'),
        (dict(messages=[user(text('ab'))], n=3), 'n is 3;.*from 1 to 2'),
        (dict(messages=[user(text('abcd'))]), 'more than 3 characters'),
    ):
        with pytest.raises(BadRequest, match=why):
            parse_request(json.dumps(fields).encode(), TEMPLATE, '', limits)
