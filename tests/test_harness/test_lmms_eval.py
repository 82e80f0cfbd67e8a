# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Our models in lmms-eval; skipped where it is not installed.

pip install lmms-eval==0.7.3
"""

import json
from types import SimpleNamespace

import pytest
from mmengine.structures import BaseDataElement
from PIL import Image

from minigpt4.evaluation.chair import score_captions
from minigpt4.generation import api
from minigpt4.images.read import load_image
from minigpt4.prompts import Turn

pytest.importorskip('lmms_eval', reason='needs lmms-eval')

from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.models.registry_v2 import ModelRegistryV2

from minigpt4.harness import lmms_eval
from minigpt4.harness.lmms_eval_models import MODELS

NAME = 'minigpt-4_nano_caption'
GREEDY = dict(max_new_tokens=12, do_sample=False, until=[])


@pytest.fixture
def docs(tmp_path) -> list[dict]:
    rows = []
    for i in range(5):
        path = tmp_path / f'{i}.png'
        Image.new('RGB', (32, 32), (50 * i, 255 - 50 * i, 90)).save(path)
        rows.append(dict(image=str(path), text='Is there a circle?'))
    return rows


@pytest.fixture
def make():
    """Function of documents and arguments to a model."""

    def make_model(docs, cls=lmms_eval.SimpleModel, **arguments):
        model = cls(device='cpu', model=NAME, workers=2, **arguments)
        model.task_dict['task'] = {'test': docs}
        return model

    return make_model


def visual(doc) -> list:
    return [Image.open(doc['image'])]


def instance(kind: str, number: int, *arguments, idx: int = 0) -> Instance:
    metadata = dict(task='task', doc_id=number, repeats=1)
    place = (number, 'task', 'test')
    return Instance(kind, (*arguments, *place), idx, metadata)


def simple(docs, settings=GREEDY) -> list[Instance]:
    return [
        instance('generate_until', i, doc['text'], dict(settings), visual)
        for i, doc in enumerate(docs)
    ]


def sample(model, *docs) -> BaseDataElement:
    size = model.model.image_size
    return BaseDataElement(
        images=[load_image(doc['image'], size) for doc in docs],
        turns=[Turn(docs[0]['text'])],
    )


def expected(model, docs) -> list[str]:
    samples = [sample(model, doc) for doc in docs]
    settings = dict(max_new_tokens=12, do_sample=False)
    return [a.text for a in api.generate(model.model, samples, **settings)]


def test_the_harness_finds_both_classes():
    registry = ModelRegistryV2()
    registry.register_manifest(MODELS)
    found = registry.get_model_class('minigpt4')
    assert found is lmms_eval.ChatModel
    found = registry.get_model_class('minigpt4', force_simple=True)
    assert found is lmms_eval.SimpleModel


def test_answers_are_those_of_our_own_engine(docs, make):
    model = make(docs, batch_size=2)
    assert model.batch_size == 2 and model.rank == 0
    assert model.world_size == 1 and model.device.type == 'cpu'
    answers = model.generate_until(simple(docs))
    assert answers == expected(model, docs)

    def messages(doc):
        parts = [
            dict(type='image', url=visual(doc)[0]),
            dict(type='text', text=doc['text']),
        ]
        return [dict(role='user', content=parts)]

    chat = make(docs, lmms_eval.ChatModel, batch_size=2)
    requests = [
        instance('generate_until', i, '', messages, dict(GREEDY))
        for i in range(5)
    ]
    assert chat.generate_until(requests) == answers


def test_a_failed_request_is_empty_and_counted(docs, make, tmp_path):
    (tmp_path / '1.png').write_bytes(b'no image')
    model = make(docs)
    messages = []
    sink = lmms_eval.logger.add(messages.append, format='{message}')
    answers = model.generate_until(simple(docs))
    lmms_eval.logger.remove(sink)
    good = docs[:1] + docs[2:]
    assert answers.pop(1) == ''
    assert answers == expected(model, good)
    assert model.failed == {'task': 1}
    text = ''.join(messages)
    assert 'task, document 1: ' in text and '1 of 5 requests of task' in text


def test_a_setting_that_is_not_supported_ends_the_run(docs, make):
    requests = simple(docs, dict(GREEDY, n=2))
    with pytest.raises(ValueError, match='^task: generation_kwargs has n=2'):
        make(docs).generate_until(requests)


def test_padding_and_repeats_are_answered_once(docs, make, monkeypatch):
    model = make(docs)
    made = []
    make_prompt = lmms_eval.make_prompt
    monkeypatch.setattr(
        lmms_eval,
        'make_prompt',
        lambda *args: made.append(args) or make_prompt(*args),
    )
    requests = simple(docs[:2])
    answers = model.generate_until([*requests, requests[1], requests[1]])
    assert answers[1:] == answers[1:2] * 3 and len(made) == 2
    # repeats in front: each request has the answer of its own document
    own = expected(model, docs[:2])
    assert own[0] != own[1] and answers[:2] == own
    first, second = requests
    assert model.generate_until([first, first, second]) == [own[0], *own]
    made.clear()
    sampled = simple(docs[:1], dict(GREEDY, do_sample=True))
    assert len(model.generate_until(sampled * 3)) == 3
    assert len(made) == 3


@pytest.mark.parametrize('likelihood', ['loss', 'log_likelihood'])
def test_likelihoods_are_those_of_rank(docs, make, likelihood):
    model = make(docs, likelihood=likelihood)
    texts = ['a red circle', 'a blue square.']
    requests = [
        instance('loglikelihood', i, doc['text'], f' {text}', visual, idx=k)
        for i, doc in enumerate(docs)
        for k, text in enumerate(texts)
    ]
    found = model.loglikelihood(requests)
    for i, doc in enumerate(docs):
        ranked = api.rank(model.model, sample(model, doc), texts)
        (first, greedy), (second, _) = found[2 * i : 2 * i + 2]
        assert greedy is False
        if likelihood == 'loss':
            assert [-first, -second] == pytest.approx(ranked, abs=1e-5)
        else:
            tokenizer, end = model.model.decoder.tokenizer, ''
            end = model.model.template.end
            lengths = [
                len(tokenizer(t + end, add_special_tokens=False).input_ids)
                for t in texts
            ]
            sums = [r * n for r, n in zip(ranked, lengths, strict=True)]
            assert [first, second] == pytest.approx(sums, rel=1e-4)
    # a function gives the text, as with the output type loglikelihood
    request = instance(
        'loglikelihood', 0, docs[0]['text'], lambda doc: texts[0], visual
    )
    (again,) = model.loglikelihood([request])
    assert tuple(again) == pytest.approx(tuple(found[0]))


def test_the_harness_keeps_a_likelihood():
    pair = lmms_eval.Likelihood((-0.5, True))
    kept, counts = unwrap_generation_output(pair)
    assert list(kept) == [-0.5, True] and counts is None
    assert json.dumps(kept) == '[-0.5, true]'


def test_a_failed_likelihood_is_the_worst(docs, make, tmp_path):
    (tmp_path / '0.png').unlink()
    request = instance('loglikelihood', 0, 'a', 'red', visual)
    (found,) = make(docs).loglikelihood([request])
    assert tuple(found) == (float('inf'), False)


@pytest.mark.parametrize('history', [False, True])
def test_rounds_are_separate_or_one_conversation(docs, make, history):
    def next_round(
        doc, previous_output=None, round_idx=None, previous_round_info=None
    ):
        if round_idx == 2:
            return None, None, True, previous_output, None
        text = 'What colour?'
        return visual(docs[1]), text, False, previous_output, None

    model = make(docs, history=history)
    request = instance(
        'generate_until_multi_round',
        0,
        docs[0]['text'],
        dict(GREEDY),
        visual,
        next_round,
    )
    ((first, second),) = model.generate_until_multi_round([request])
    assert [first] == expected(model, docs[:1])
    size = model.model.image_size
    images = [load_image(doc['image'], size) for doc in docs[:2]]
    slot = model.model.template.image
    turns = [Turn('What colour?')]
    if history:
        turns = [
            Turn(f'{slot} {docs[0]["text"]}', first),
            Turn(f'{slot} What colour?'),
        ]
    asked = BaseDataElement(images=images[-len(turns) :], turns=turns)
    (answer,) = api.generate(
        model.model, [asked], max_new_tokens=12, do_sample=False
    )
    assert second == answer.text


def test_rounds_of_messages(docs, make):
    def messages(doc, round_idx=None, previous_output=None, **_):
        parts = [
            dict(type='image', url=doc['image']),
            dict(type='text', text=doc['text']),
        ]
        message = [dict(role='user', content=parts)]
        if round_idx is None:
            return message
        assert len(previous_output) == round_idx
        return message, round_idx == 3, previous_output, None

    model = make(docs, lmms_eval.ChatModel)
    request = instance(
        'generate_until_multi_round', 2, '', messages, dict(GREEDY)
    )
    (answers,) = model.generate_until_multi_round([request])
    assert answers == expected(model, docs[2:3]) * 3


def test_answers_are_stored_and_used_again(docs, make, tmp_path):
    folder = str(tmp_path / 'answers')
    first = make(docs, answers=folder).generate_until(simple(docs[:3]))
    rows = (tmp_path / 'answers' / 'answers_0.jsonl').read_text()
    assert [json.loads(row)['answer'] for row in rows.splitlines()] == first
    model = make(docs, answers=folder)
    assert model.generate_until(simple(docs))[:3] == first


def test_tasks_run_in_the_harness(docs, tmp_path, monkeypatch, make):
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from minigpt4.harness import task_files

    photos = task_files.find_photos(tmp_path)
    truth = {
        path.stem: ['dog', 'cat'][: 1 + i % 2] for i, path in enumerate(photos)
    }
    tasks = [
        task_files.caption_task(photos, truth, ''),
        *task_files.yes_no_tasks(photos, truth),
    ]
    task_files.write_tasks(tmp_path / 'tasks', tasks)
    model = make(docs, batch_size=4)
    # before the harness deletes the model
    rows = [
        dict(image_id=doc['image_id'], caption=answer.text)
        for doc in tasks[0].documents
        for (answer,) in [
            api.generate(
                model.model,
                [sample(model, dict(image=doc['photo'], text=''))],
                max_new_tokens=60,
            )
        ]
    ]
    expected = score_captions(rows, truth)['scores']['chair_i']['value']
    results = simple_evaluate(
        model=model,
        tasks=[
            'photos_caption',
            'photos_yes_no_random',
            'photos_yes_no_choice',
        ],
        task_manager=TaskManager(include_path=str(tmp_path / 'tasks')),
        cli_args=SimpleNamespace(process_with_media=True, reasoning_tags=None),
    )['results']
    assert results['photos_caption']['chair_i,none'] == expected
    assert 0 <= results['photos_yes_no_random']['accuracy,none'] <= 1
    assert 0 <= results['photos_yes_no_choice']['acc,none'] <= 1
