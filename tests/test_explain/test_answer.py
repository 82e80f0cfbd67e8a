# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The greedy answer, and what cannot be explained."""

import pytest

from minigpt4.explain.answer import answer_greedily
from minigpt4.generation.request import Answer


def test_the_sequence_has_the_greedy_answer_as_targets(
    tiny_model, make_sample
):
    tiny_model.eval().generation = dict(do_sample=True, num_beams=3)
    sample = make_sample([0], 'describe this image')
    answer = answer_greedily(tiny_model, sample, max_new_tokens=5)
    (expected,) = tiny_model.generate(
        [sample], max_new_tokens=5, do_sample=False, num_beams=1
    )
    assert answer.text == expected.text and not answer.finished
    targets = answer.inputs.targets.tolist()
    assert targets == expected.token_ids[: len(targets)]
    assert len(targets) == answer.words[-1].stop
    # three image tokens; the last token of the answer is a target only
    prompt = tiny_model.collator(training=False).tokenize(sample)
    length = len(prompt.ids) + 2 + len(targets) - 1
    assert answer.inputs.token_ids.shape == (1, length)
    assert len(answer.inputs.image_positions) == 3


@pytest.mark.parametrize(
    ('images', 'found'), [([], 'no image;'), ([0, 1], '2 images;')]
)
def test_one_image_is_expected(tiny_model, make_sample, images, found):
    with pytest.raises(ValueError, match=found):
        answer_greedily(tiny_model, make_sample(images, 'what is'))


def test_two_image_slots_are_refused(tiny_model, make_sample):
    sample = make_sample([0], '<ImageHere> and <ImageHere>')
    with pytest.raises(ValueError, match='2 image'):
        answer_greedily(tiny_model.eval(), sample)


@pytest.mark.parametrize('answer', [Answer('', [], True), Answer('', [2], 0)])
def test_an_empty_answer_is_refused(
    tiny_model, make_sample, monkeypatch, answer
):
    monkeypatch.setattr(tiny_model, 'generate', lambda *_, **__: [answer])
    with pytest.raises(ValueError, match='answer of the model is empty'):
        answer_greedily(tiny_model, make_sample([0], 'what is'))


def test_a_model_without_image_tokens_is_refused(tiny_model, make_sample):
    tiny_model.neck.num_tokens = 0
    with pytest.raises(ValueError, match='no image tokens'):
        answer_greedily(tiny_model, make_sample([0], 'what is'))


def test_a_model_of_cached_features_is_refused(tiny_model, make_sample):
    tiny_model.backbone = None
    with pytest.raises(ValueError, match='cached features'):
        answer_greedily(tiny_model, make_sample([0], 'what is'))
