# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The texts of the LLM's pretraining, and a short pretraining."""

import random
import re

import pytest
import sentencepiece
import torch

from minigpt4.nano import pretrain
from minigpt4.nano.text_documents import TextDocuments, batches

NEIGHBOUR = re.compile(r'The (\w+) is (in the )?(\w+)')


@pytest.fixture(scope='module')
def tokenizer_model(tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.model'
    pretrain.train_tokenizer(path, scenes=3000)
    return path


@pytest.fixture(scope='module')
def tokenizer(tokenizer_model):
    return sentencepiece.SentencePieceProcessor(
        model_file=str(tokenizer_model)
    )


def draw(tokenizer, share_of_lists, number, seed=0):
    documents = TextDocuments(tokenizer, random.Random(seed))
    documents.share_of_lists = share_of_lists
    return [documents.draw() for _ in range(number)]


def answered(document, tokenizer):
    ids, supervised = document.ids, document.supervised
    learned = [i for i, learn in zip(ids, supervised, strict=True) if learn]
    return tokenizer.decode(learned)


def test_the_tokenizer_has_the_words_of_scenes(tokenizer):
    assert tokenizer.get_piece_size() == 768
    text = 'small red circle top left'
    assert len(tokenizer.encode(text)) == 5
    assert tokenizer.decode(tokenizer.encode('É?')) == 'É?'


def test_lists_are_repeated_reversed_or_asked_about(tokenizer):
    kinds = set()
    for document in draw(tokenizer, 1.0, 200):
        text = tokenizer.decode(document.ids)
        body, _, answer = text.partition('###Assistant:')
        if text.startswith(('Repeat:', 'Reverse:')):
            kind, _, words = body.partition(':')
            words = words.split()
            expected = words if kind == 'Repeat' else words[::-1]
            assert answer.removesuffix('###').split() == expected
        else:
            kind, words = 'neighbours', body.split()
            for sentence in answer.split('.')[:-1]:
                found = NEIGHBOUR.fullmatch(sentence.strip())
                word, is_next, neighbour = found.groups()
                step = 1 if is_next else -1
                assert words[words.index(word) + step] == neighbour
        kinds.add(kind)
    assert kinds == {'Repeat', 'Reverse', 'neighbours'}


def test_scenes_are_marked_and_answers_supervised(tokenizer):
    seen = 0
    for document in draw(tokenizer, 0.0, 200):
        scene = tokenizer.decode(document.ids[document.first : document.last])
        if not scene:
            continue
        seen += 1
        assert scene.endswith(' background')
        assert not any(document.supervised[: document.last])
        answers = answered(document, tokenizer).split('###')[:-1]
        assert answers and len(set(answers)) == len(answers)
    assert seen > 150


def test_questions_are_worded_and_typed_as_by_users(tokenizer):
    texts = [tokenizer.decode(d.ids) for d in draw(tokenizer, 0.0, 1500)]
    asked = {
        turn.partition('###Assistant:')[0].rpartition('> ')[2].strip()
        for text in texts
        for turn in text.split('###Human:')[-1].split('### Human:')
    }
    assert {'Write a poem.', 'Count the shapes.'} <= asked  # of the data
    assert {'Make a poem.', 'Hello!', 'hello!', 'Write a poem'} <= asked
    assert any('\n' in question for question in asked)
    # small talk is with and without a scene
    with_talk = [text for text in texts if 'You are welcome.' in text]
    assert len({'</Img>' in text for text in with_talk}) == 2


def test_conversations_have_several_long_answers(tokenizer):
    starts = {
        'description': 'The image shows',
        'poem': 'upon a ',
        'count': 'There ',
    }
    found = set()
    for document in draw(tokenizer, 0.0, 400):
        text = answered(document, tokenizer)
        found.add(tuple(sorted(k for k, v in starts.items() if v in text)))
    assert {('description', 'poem'), ('count', 'poem')} <= found
    assert {('count',), ('description',), ('poem',)} <= found


def test_an_llm_of_captions_sees_no_chat(tokenizer):
    documents = TextDocuments(tokenizer, random.Random(0), captions_only=True)
    for _ in range(50):
        document = documents.draw()
        assert 0 < document.first < document.last
        text = answered(document, tokenizer)
        assert text.endswith('\n')
        assert '###' not in tokenizer.decode(document.ids)
        assert not any(document.supervised[: document.last])


def test_batches_are_padded_and_bounded(tokenizer):
    documents = TextDocuments(tokenizer, random.Random(0))
    stream = batches(documents.draw, 2048, random.Random(0))
    for _ in range(20):
        ids, labels, scene = next(stream)
        assert ids.shape == labels.shape == scene.shape
        assert ids.numel() <= 2048
        learned = labels != -100
        assert learned.any(1).all()
        assert torch.equal(ids[learned], labels[learned])
        assert not (scene & learned).any()


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='needs Muon')
def test_a_short_pretraining_learns_and_repeats_to_the_bit(tokenizer_model):
    def train():
        lines = []
        model = pretrain.pretrain_llm(
            tokenizer_model, 4, tokens=256, log=lines.append
        )
        return model.lm_head.weight

    first = train()
    assert torch.equal(first, train())
    assert torch.isfinite(first).all()


def test_vision_is_pretrained():
    backbone, neck = pretrain.pretrain_vision(2, batch_size=4)
    images = torch.zeros(1, 3, 64, 64)
    assert neck(backbone(images)).shape == (1, 22, 128)
