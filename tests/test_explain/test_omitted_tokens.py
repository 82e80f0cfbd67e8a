# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Losses without image tokens."""

import pytest
import torch

from minigpt4.explain.answer import answer_greedily
from minigpt4.explain.omitted_tokens import (
    OmissionLosses,
    losses_with_omissions,
)
from minigpt4.explain.words import Word
from minigpt4.generation.api import rank


def answered(model, make_sample, question='describe this image'):
    sample = make_sample([0], question)
    answer = answer_greedily(model.eval(), sample, max_new_tokens=6)
    pixels = model.data_preprocessor.normalize(sample.images[0][None])
    with torch.no_grad():
        return sample, answer.inputs, model.embed_images(pixels)


def test_with_all_tokens_the_loss_is_that_of_training(
    family_model, make_sample
):
    _, inputs, tokens = answered(family_model, make_sample)
    losses = losses_with_omissions(family_model, inputs, tokens)
    with torch.no_grad():
        expected = family_model.token_losses(None, inputs, tokens).double()
    assert torch.allclose(losses.complete, expected, atol=1e-4)
    assert losses.each.shape == (3, len(expected))


def test_with_all_tokens_the_loss_is_that_of_the_generation(nano):
    from tests.test_explain.conftest import SCENE

    from minigpt4.captioning.inferencer import make_sample

    sample = make_sample([SCENE], nano.prompt, 64)
    answer = answer_greedily(nano, sample)
    pixels = nano.data_preprocessor.normalize(sample.images[0][None])
    with torch.no_grad():
        tokens = nano.embed_images(pixels)
    losses = losses_with_omissions(nano, answer.inputs, tokens)
    (expected,) = rank(nano, sample, [answer.text], end=False)
    assert float(losses.complete.mean()) == pytest.approx(-expected, abs=1e-5)


@pytest.mark.parametrize(
    'question', ['describe this image', 'a small <ImageHere> what is']
)
def test_an_omitted_token_has_no_effect(tiny_model, make_sample, question):
    _, inputs, tokens = answered(tiny_model, make_sample, question)
    losses = losses_with_omissions(tiny_model, inputs, tokens)
    changed = tokens.clone()
    changed[0, 1] += 3 * torch.randn(tokens.shape[-1])
    other = losses_with_omissions(tiny_model, inputs, changed)
    assert torch.allclose(losses.each[1], other.each[1], atol=1e-5)
    assert not torch.allclose(losses.each[0], other.each[0], atol=1e-3)
    assert not torch.allclose(losses.complete, other.complete, atol=1e-3)
    assert torch.allclose(losses.none, other.none, atol=1e-5)


def test_without_any_token_no_token_has_an_effect(tiny_model, make_sample):
    _, inputs, tokens = answered(tiny_model, make_sample)
    losses = losses_with_omissions(tiny_model, inputs, tokens)
    for i in range(3):
        changed = tokens.clone()
        changed[0, i] += 3 * torch.randn(tokens.shape[-1])
        other = losses_with_omissions(tiny_model, inputs, changed)
        assert torch.allclose(losses.none, other.none, atol=1e-5)


def test_a_token_is_omitted_as_by_a_mask_of_its_column(
    tiny_model, make_sample
):
    """The loss equals that of attention whose scores there are -inf."""
    _, inputs, tokens = answered(tiny_model, make_sample)
    losses = losses_with_omissions(tiny_model, inputs, tokens)
    length = inputs.token_ids.shape[1]
    mask = torch.ones(length, length).tril().bool()
    mask[:, inputs.image_positions[2]] = False
    mask[inputs.image_positions[2], 0] = True
    decoder = tiny_model.decoder
    with torch.no_grad():
        embeddings = tiny_model.embed_inputs(None, inputs, tokens)
        hidden = decoder.hidden_states(
            embeddings, mask[None, None], inputs.position_ids
        )
        expected = decoder.token_losses(
            hidden, inputs.target_positions, inputs.targets
        ).double()
    assert torch.allclose(losses.each[2], expected, atol=1e-5)


def test_batches_change_nothing(tiny_model, make_sample):
    _, inputs, tokens = answered(tiny_model, make_sample)
    done: list[int] = []
    all_together = losses_with_omissions(tiny_model, inputs, tokens)
    in_pairs = losses_with_omissions(
        tiny_model, inputs, tokens, batch_size=2, progress=done.append
    )
    assert done == [2, 2, 1]
    for one, other in zip(all_together, in_pairs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_sequence_that_begins_with_the_image(build_tiny, make_sample):
    """Its first position attends to nothing where it is omitted."""
    model = build_tiny(prompt_template='bare')
    _, inputs, tokens = answered(model, make_sample, '')
    losses = losses_with_omissions(model, inputs, tokens)
    assert all(torch.isfinite(x).all() for x in losses)


def test_losses_of_words_are_sums():
    losses = OmissionLosses(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([[1.0, 2.0, 5.0], [0.5, 2.0, 3.0]]),
        torch.tensor([4.0, 4.0, 4.0]),
    ).of_words([Word('a', '', 0, 1), Word('b', ' ', 1, 3)])
    assert losses.complete.tolist() == [1, 5]
    assert losses.each.tolist() == [[1, 7], [0.5, 5]]
    assert losses.increase.tolist() == [[0, -0.5], [2, 0]]
    assert losses.increase_without_image.tolist() == [3, 3]
