# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The loss of DPO on small tensors, compared with the formula."""

import math

import pytest
import torch

from minigpt4.models.preference_loss import (
    answer_scores,
    preference_losses,
    reward_margins,
)


def test_hand_computed_loss():
    scores = torch.tensor([[-2.0, -5.0], [-3.0, -4.0]])
    reference = torch.tensor([[-2.5, -5.0], [-2.0, -4.5]])
    margins = reward_margins(scores, reference, beta=0.5)
    # 0.5 * ((-2 + 2.5) - (-3 + 2)) and 0.5 * ((-5 + 5) - (-4 + 4.5))
    assert margins.tolist() == [0.75, -0.25]
    losses = preference_losses(margins).tolist()
    expected = [math.log(1 + math.exp(-0.75)), math.log(1 + math.exp(0.25))]
    assert losses == pytest.approx(expected, abs=1e-6)
    assert losses == pytest.approx([0.386871, 0.825940], abs=1e-5)


def test_margin_0_is_log_2():
    scores = torch.tensor([[-7.0], [-9.0]])
    margins = reward_margins(scores, scores.clone(), beta=0.1)
    assert margins.item() == 0
    assert preference_losses(margins).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_large_margins_do_not_overflow(smoothing):
    margins = torch.tensor([1e4, -1e4], requires_grad=True)
    losses = preference_losses(margins, smoothing)
    losses.sum().backward()
    wrong = smoothing * 1e4
    expected = [wrong, 1e4 - wrong]
    assert losses.tolist() == pytest.approx(expected, rel=1e-6)
    # the derivative is sigmoid(margin) - 1, and with smoothing plus that
    assert margins.grad.tolist() == pytest.approx(
        [smoothing, smoothing - 1], abs=1e-6
    )


def test_label_smoothing_mixes_both_labels():
    (loss,) = preference_losses(torch.tensor([2.0]), 0.25).tolist()
    right, wrong = (math.log(1 + math.exp(x)) for x in (-2, 2))
    assert loss == pytest.approx(0.75 * right + 0.25 * wrong, abs=1e-6)


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_gradient_is_that_of_finite_differences(smoothing):
    draw = torch.Generator().manual_seed(0)
    scores, reference = (
        -5 * torch.rand(2, 3, generator=draw, dtype=torch.float64)
        for _ in range(2)
    )

    def loss(scores):
        margins = reward_margins(scores, reference, 0.7)
        return preference_losses(margins, smoothing).mean()

    assert torch.autograd.gradcheck(loss, scores.requires_grad_())


def test_gradient_is_that_of_the_plain_formula():
    draw = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 4, generator=draw).double().requires_grad_()
    reference = torch.randn(2, 4, generator=draw).double()
    preference_losses(reward_margins(scores, reference, 0.1)).mean().backward()
    again = scores.detach().clone().requires_grad_()
    (chosen, rejected), (ref_chosen, ref_rejected) = again, reference
    ratio = 0.1 * ((chosen - ref_chosen) - (rejected - ref_rejected))
    (-torch.log(torch.sigmoid(ratio))).mean().backward()
    torch.testing.assert_close(scores.grad, again.grad)


def test_scores_are_sums_over_the_tokens_of_each_sequence():
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    counts = torch.tensor([2, 3, 0, 1])
    assert answer_scores(losses, counts).tolist() == [-3, -28, 0, -32]
    means = answer_scores(losses, counts, normalize_length=True)
    assert means.tolist() == pytest.approx([-1.5, -28 / 3, 0, -32])


def test_scores_have_the_gradient_of_a_sum():
    losses = torch.ones(3, requires_grad=True)
    answer_scores(losses, torch.tensor([1, 2]))[1].backward()
    assert losses.grad.tolist() == [0, -1, -1]
