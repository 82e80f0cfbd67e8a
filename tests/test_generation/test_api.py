# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers of a model to samples, batches and candidates."""

import pytest
import torch

from minigpt4.generation import api
from minigpt4.generation.engine import Engine


def test_generate_uses_the_engine(tiny_model, make_sample, monkeypatch):
    monkeypatch.setattr(
        tiny_model.decoder.llm, 'generate', lambda **_: pytest.fail('not here')
    )
    samples = [make_sample([0], 'describe'), make_sample([], 'what')]
    answers = api.generate(tiny_model, samples, max_new_tokens=4)
    assert [len(answer.token_ids) for answer in answers] == [4, 4]
    assert tiny_model.generate(samples, max_new_tokens=4) == answers
    assert api.generate(tiny_model, samples, 1, max_new_tokens=4) == answers
    assert api.generate(tiny_model, []) == []


@pytest.mark.parametrize('settings', [{}, dict(num_beams=2)])
def test_a_batch_gives_the_answers_of_single_samples(
    tiny_model, make_sample, settings
):
    samples = [
        make_sample([0], 'describe this image in detail'),
        make_sample([], 'what is the colour of a small circle on a square'),
        make_sample([1, 2], '<ImageHere> or <ImageHere>'),
        make_sample([3], 'what', 'the red circle', 'a blue square'),
        make_sample([4], ''),
    ]
    settings = dict(max_new_tokens=10, **settings)
    batch = tiny_model.generate(samples, **settings)
    singles = [tiny_model.generate([s], **settings)[0] for s in samples]
    assert batch == singles
    assert len({answer.text for answer in batch}) == len(samples)
    assert batch[::-1] == tiny_model.generate(samples[::-1], **settings)
    collated = tiny_model.collator(training=False)(samples)
    collated = tiny_model.data_preprocessor(collated)
    answers = api.answer_batch(
        tiny_model, collated['images'], collated['inputs'], **settings
    )
    assert answers == batch


def test_an_image_of_neighbouring_samples_is_encoded_once(
    tiny_model, make_sample, monkeypatch
):
    samples = [
        make_sample(images, 'what ' + '<ImageHere> ' * len(images))
        for images in ([0], [], [0], [0, 1], [1], [0])
    ]
    batch = tiny_model.data_preprocessor(
        tiny_model.collator(training=False)(samples)
    )
    expected = [tiny_model.generate([s], max_new_tokens=6)[0] for s in samples]
    encode, sizes = tiny_model.encode_images, []

    def count(images):
        sizes.append(len(images))
        return encode(images)

    monkeypatch.setattr(tiny_model, 'encode_images', count)
    answers = api.answer_batch(
        tiny_model, batch['images'], batch['inputs'], max_new_tokens=6
    )
    assert answers == expected
    assert len({answer.text for answer in answers}) > 2
    assert sizes == [3]


def test_an_image_of_neighbouring_samples_is_prefilled_once(
    tiny_model, make_sample, monkeypatch
):
    samples = [
        make_sample([image], question)
        for image, question in ((0, 'what'), (0, 'a red'), (1, 'a red'))
    ]
    collator = tiny_model.collator(training=False)
    batch = tiny_model.data_preprocessor(collator(samples))
    expected = [tiny_model.generate([s], max_new_tokens=6)[0] for s in samples]
    engines = []

    class Kept(Engine):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            engines.append(self)

    monkeypatch.setattr(api, 'Engine', Kept)
    token_ids = batch['inputs'].token_ids.clone()
    answers = api.answer_batch(
        tiny_model, batch['images'], batch['inputs'], max_new_tokens=6
    )
    assert answers == expected
    assert torch.equal(batch['inputs'].token_ids, token_ids)
    prompt_tokens = int(batch['inputs'].attention_mask.sum())
    saved = prompt_tokens - engines[0].runner.stats.prefill_tokens
    assert tiny_model.num_image_tokens < saved < prompt_tokens / 2


def test_greedy_tokens_are_the_argmax_of_the_logits(tiny_model, make_sample):
    """Generation has the mask and positions of the loss."""
    samples = [make_sample([0], 'describe'), make_sample([], 'what is a red')]
    answers = tiny_model.generate(samples, max_new_tokens=1)
    tiny_model.pack_length = None
    (piece,) = tiny_model.collator(training=True)(samples)['pieces']
    batch = tiny_model.data_preprocessor(piece)
    with torch.no_grad():
        logits = tiny_model(**batch)
    last = batch['inputs'].attention_mask.sum(1) - 1
    for i, answer in enumerate(answers):
        assert answer.token_ids == [int(logits[i, last[i]].argmax())]


def test_generation_settings_of_the_llm_are_not_used(build_tiny, make_sample):
    model = build_tiny()
    samples = [make_sample([0], 'describe')]
    expected = model.generate(samples, max_new_tokens=8)
    model.decoder.llm.generation_config.update(
        do_sample=True, temperature=50.0
    )
    for _ in range(3):
        assert model.generate(samples, max_new_tokens=8) == expected
    sampled = {
        model.generate(
            samples, max_new_tokens=8, do_sample=True, temperature=50.0
        )[0].text
        for _ in range(4)
    }
    assert len(sampled) > 1


def test_rank_is_that_of_the_engine(tiny_model, make_sample):
    sample = make_sample([0], 'what')
    prompt = tiny_model.collator(training=False).tokenize(sample)
    candidates = ['red', 'a blue circle']
    expected = Engine(tiny_model).rank(prompt, sample.images, candidates)
    found = api.rank(tiny_model, sample, candidates)
    assert found == pytest.approx(expected) and found[0] != found[1]
