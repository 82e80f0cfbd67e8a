# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The requests of evaluation harnesses are answered.

VLMEvalKit sends JSON with its own HTTP client, lmms-eval uses OpenAI's.
"""

import json

import pytest

from minigpt4.nano import grammar

openai = pytest.importorskip('openai', reason='needs minigpt4[serve]')
pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')
pytest.importorskip('prometheus_client', reason='needs minigpt4[serve]')

from tests.chat_server import DESCRIBE, NAME, ask, post, running, url_of

COUNT = 'How many shapes are there?'


@pytest.fixture(scope='module')
def api(model):
    with running(model, api_key='sk-123456') as api:
        yield api


@pytest.fixture(scope='module')
def truth(scenes):
    """The description of the first scene."""
    return grammar.description(scenes[0][0])


def text(words: str) -> dict:
    return dict(type='text', text=words)


def image(url: str, **fields) -> dict:
    return dict(type='image_url', image_url=dict(url=url, **fields))


def answer(api, content, *before, **fields) -> str:
    """The answer to a request as VLMEvalKit's wrappers send it."""
    body = dict(
        model=NAME,
        messages=[*before, dict(role='user', content=content)],
        max_tokens=300,
        n=1,
        temperature=0,
    )
    status, _, content = post(
        api,
        json.dumps({**body, **fields}).encode(),
        {'Authorization': 'Bearer sk-123456'},
    )
    assert status == 200, content
    (choice,) = content['choices']
    return choice['message']['content']


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
@pytest.mark.parametrize('detail', [None, 'low', 'high', 'auto'])
def test_images_as_data_urls(api, scenes, truth, kind, detail):
    fields = dict(detail=detail) if detail else {}
    url = url_of(scenes[0][1], kind)
    assert url.startswith(f'data:image/{kind.lower()};base64,')
    assert answer(api, [image(url, **fields), text(DESCRIBE)]) == truth
    # a multiple-choice prompt may have its image last
    assert answer(api, [text(DESCRIBE), image(url, **fields)]) == truth


def test_other_forms_of_an_image(api, scenes, truth):
    url = url_of(scenes[0][1])
    bare = dict(type='image_url', image_url=url)
    more = image(url, max_dynamic_patch=6)  # of InternVL's wrapper
    for part in (bare, more, dict(image(url), detail='low')):
        assert answer(api, [part, text(DESCRIBE)]) == truth


def test_several_texts_around_images(api, scenes):
    first, second = (url_of(scenes[i][1]) for i in range(2))
    content = [
        text('Look at both.'),
        text('Image 1:'),
        image(first, detail='low'),
        text('Image 2:'),
        image(second, detail='low'),
        text(COUNT),
        text('Answer with one sentence.'),
    ]
    assert answer(api, content)
    assert answer(api, [text(COUNT)]), 'without an image'
    assert answer(api, COUNT), 'a plain text'


def test_system_messages_and_earlier_turns(api, scenes, truth):
    url = url_of(scenes[0][1])
    question = [image(url), text(DESCRIBE)]
    null = dict(role='system', content=None)
    assert answer(api, question, null) == truth
    for content in ('', 'You are helpful.', [text('You are helpful.')]):
        system = dict(role='system', content=content)
        assert answer(api, question, system)
    turns = [
        dict(role='user', content=question),
        dict(role='assistant', content=[text(truth)]),
        dict(role='user', content=[text(COUNT)]),
        dict(role='assistant', content=None, tool_calls=None, refusal=None),
    ]
    assert answer(api, [text(COUNT)], *turns)


@pytest.mark.parametrize(
    'fields',
    [
        dict(temperature=0.0, top_p=1.0),
        dict(max_completion_tokens=300),
        dict(max_tokens=None, max_completion_tokens=300),
        dict(timeout=60),
        dict(dataset='MMBench_DEV_EN'),
        dict(stream=False, seed=0, stop=None, user='a'),
        dict(repetition_penalty=1.0, presence_penalty=0.0),
        dict(skip_special_tokens=True, best_of=1, use_beam_search=False),
        dict(response_format=dict(type='text')),
        dict(logprobs=None, top_logprobs=None, tools=None),
        dict(stop=['\n\n', 'Question:']),
    ],
)
def test_further_fields(api, scenes, truth, fields):
    content = [image(url_of(scenes[0][1])), text(DESCRIBE)]
    assert answer(api, content, **fields) == truth


def test_fields_that_would_change_the_answer_are_refused(api):
    body = dict(messages=ask(COUNT), guided_choice=['A', 'B'])
    headers = {'Authorization': 'Bearer sk-123456'}
    status, _, content = post(api, json.dumps(body).encode(), headers)
    assert status == 400 and 'guided_choice' in content['error']['message']


def check_choices(texts, contents, truth) -> None:
    assert texts == [truth] * 3
    for content in contents:
        found = b''.join(bytes(token.bytes) for token in content)
        assert found.decode().strip() == truth
        assert all(len(token.top_logprobs) == 5 for token in content)


def test_the_official_client(api, scenes, truth):
    """``n`` and log-probabilities together, complete and streamed."""
    arguments = dict(
        model=NAME,
        messages=ask(DESCRIBE, url_of(scenes[0][1])),
        logprobs=True,
        top_logprobs=5,
        n=3,
        max_tokens=300,
        temperature=0,
        timeout=60,
    )
    create = api.client.chat.completions.create
    full = create(**arguments)
    assert [choice.index for choice in full.choices] == [0, 1, 2]
    check_choices(
        [choice.message.content for choice in full.choices],
        [choice.logprobs.content for choice in full.choices],
        truth,
    )
    texts, contents = ['', '', ''], [[], [], []]
    for event in create(stream=True, **arguments):
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ''
            if choice.logprobs:
                contents[choice.index] += choice.logprobs.content
    check_choices(texts, contents, truth)
    assert [token.bytes for token in contents[0]] == [
        token.bytes for token in full.choices[0].logprobs.content
    ]


def test_one_token_with_its_alternatives(api, scenes):
    """As multiple-choice protocols compare the letters of the choices."""
    create = api.client.chat.completions.create
    answer = create(
        model=NAME,
        messages=ask(COUNT, url_of(scenes[0][1])),
        max_tokens=1,
        logprobs=True,
        top_logprobs=20,
    )
    (token,) = answer.choices[0].logprobs.content
    words = [other.token.strip() for other in token.top_logprobs]
    assert len(words) == 20 and token.token.strip() == words[0] == 'There'
