# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Training steps on pairs: reference, gradients, frozen weights."""

import math
from dataclasses import replace

import pytest
import torch
from mmengine.optim import OptimWrapper

from minigpt4.models.preference import PreferenceTraining
from minigpt4.models.preference_loss import reward_margins


@pytest.fixture
def samples(make_sample):
    texts = [
        ('describe', 'the red circle.', 'the blue circle. the blue circle.'),
        ('what is in this image', 'a small square', 'green'),
        ('the colour', 'blue', 'red red'),
    ]
    made = []
    for number, (question, chosen, rejected) in enumerate(texts):
        sample = make_sample([number], question, chosen)
        sample.set_metainfo(dict(id=str(number), rejected=rejected))
        made.append(sample)
    return made


@pytest.fixture
def build(build_tiny):
    """Function of settings to a model with its reference."""

    def make(preference=None, **overrides):
        model = build_tiny(preference=preference or {}, **overrides)
        model.preference.set_reference(model)
        return model

    return make


def sgd(model, lr=0.5):
    trained = [p for p in model.parameters() if p.requires_grad]
    return OptimWrapper(torch.optim.SGD(trained, lr=lr))


def scores_alone(model, samples, rejected):
    """Log-probability of each answer, each from a batch of its own."""
    scores = []
    for sample in samples:
        sample = sample.clone()
        if rejected:
            (turn,) = sample.turns
            sample.turns = [replace(turn, answer=sample.rejected)]
        batch = model.collator(training=True)([sample])
        inputs = model.data_preprocessor(batch['pieces'][0], True)
        losses = model.token_losses(inputs['images'], inputs['inputs'])
        scores.append(-losses.sum())
    return torch.stack(scores)


def test_step_0_is_log_2_with_margin_0(build, samples):
    model = build()
    means = model.train_step(samples, sgd(model))
    assert set(means) == {'loss', 'reward_margin', 'reward_accuracy'}
    assert means['loss'].item() == torch.tensor(2.0).log().item()
    assert means['reward_margin'].item() == 0
    assert means['reward_accuracy'].item() == 0


@pytest.mark.parametrize('packed', [True, False])
def test_loss_is_the_formula_on_separate_sequences(build, samples, packed):
    model = build(dict(beta=0.3), pack_length=256 if packed else None)
    reference = [
        scores_alone(model, samples, r).detach() for r in (False, True)
    ]
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    policy = [scores_alone(model, samples, r) for r in (False, True)]
    margins = 0.3 * (policy[0] - reference[0] - (policy[1] - reference[1]))
    expected = -torch.log(torch.sigmoid(margins)).mean()
    expected.backward()
    gradients = [p.grad.clone() for p in model.head.parameters()]
    wrapper = sgd(model, lr=0.0)
    wrapper.zero_grad = lambda: None
    for parameter in model.head.parameters():
        parameter.grad = None
    means = model.train_step(samples, wrapper)
    torch.testing.assert_close(means['loss'], expected.detach())
    torch.testing.assert_close(means['reward_margin'], margins.mean().detach())
    assert means['reward_accuracy'] == (margins > 0).float().mean()
    for parameter, gradient in zip(model.head.parameters(), gradients):
        torch.testing.assert_close(
            parameter.grad, gradient, atol=1e-5, rtol=1e-4
        )


def test_pieces_do_not_change_loss_and_weights(build, samples):
    results = []
    for size in (None, 1, 2):
        model = build(micro_batch_size=size)
        wrapper = sgd(model)
        means = [model.train_step(samples, wrapper) for _ in range(3)]
        results.append((means, list(model.head.parameters())))
    for other in results[1:]:
        torch.testing.assert_close(results[0], other, atol=1e-5, rtol=1e-5)


def test_training_raises_the_margin_and_changes_nothing_else(build, samples):
    model = build()
    wrapper = sgd(model)
    trained = set(model.trained_names)
    frozen = {
        name: value.clone()
        for name, value in (*model.named_parameters(), *model.named_buffers())
        if name not in trained
    }
    started = {n: model.get_parameter(n).detach().clone() for n in trained}
    means = [model.train_step(samples, wrapper) for _ in range(20)]
    assert means[-1]['loss'] < means[0]['loss'] - 0.1
    assert means[-1]['reward_margin'] > 0.1
    assert means[-1]['reward_accuracy'] == 1
    values = dict((*model.named_parameters(), *model.named_buffers()))
    for name, value in frozen.items():
        assert torch.equal(values[name], value), name
    for name, value in started.items():
        assert not torch.equal(values[name], value)
        # the reference is that of the start
        assert torch.equal(model.preference.reference[name], value)


def test_reference_weights_are_not_saved_with_the_model(build):
    model = build()
    names = set(model.state_dict())
    assert names == {*model.trained_names, 'llm_fingerprint'}
    assert set(model.preference.reference) == set(model.trained_names)


def test_a_trained_q_former_has_a_reference_too(build, samples):
    model = build(neck=dict(frozen=False))
    assert any(name.startswith('neck.') for name in model.preference.reference)
    wrapper = sgd(model, lr=0.05)
    first = model.train_step(samples, wrapper)
    # without dropout; kernels with and without gradient may differ
    assert abs(first['reward_margin'].item()) < 1e-6
    for _ in range(5):
        last = model.train_step(samples, wrapper)
    assert last['loss'] < math.log(2)


def test_lora_weights_have_a_reference_too(build, samples):
    pytest.importorskip('peft')
    lora = dict(r=2, target_modules=['q_proj'], lora_dropout=0.5)
    model = build(decoder=dict(lora=lora))
    model.train()
    wrapper = sgd(model)
    first = model.train_step(samples, wrapper)
    assert abs(first['reward_margin'].item()) < 1e-6
    for _ in range(5):
        last = model.train_step(samples, wrapper)
    assert last['loss'] < math.log(2)


def test_length_normalisation_uses_means(build, samples):
    model = build(dict(normalize_length=True, beta=1.0))
    counts = torch.tensor(
        [
            [len(model.collator(True)([s])['pieces'][0]['inputs'].targets)]
            for s in samples
        ]
    )
    (piece,) = model.train_collator()(samples)['pieces']
    assert piece['inputs'].target_counts[:3].tolist() == counts[:, 0].tolist()
    before = scores_alone(model, samples, False) / counts[:, 0]
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        after = scores_alone(model, samples, False) / counts[:, 0]
        piece = model.data_preprocessor(piece, True)
        margins = reward_margins(
            *model.preference.scores(model, piece['images'], piece['inputs']),
            beta=1.0,
        )
        rejected = piece['inputs'].target_counts[3:]
        later = scores_alone(model, samples, True) / rejected
        model.load_state_dict(
            {**model.state_dict(), **model.preference.reference}
        )
        earlier = scores_alone(model, samples, True) / rejected
    expected = (after - before) - (later - earlier)
    torch.testing.assert_close(margins, expected, atol=1e-5, rtol=1e-4)


def test_without_reference_weights(build_tiny, samples):
    model = build_tiny(preference={})
    with pytest.raises(ValueError, match='no reference weights; expected'):
        model.train_step(samples, sgd(model))


def test_reference_weights_of_another_model(build):
    model = build()
    with pytest.raises(ValueError, match='the reference weights are a; exp'):
        model.preference.set_reference(model, dict(a=torch.zeros(1)))


@pytest.mark.parametrize(
    'settings',
    [
        dict(beta=0),
        dict(beta=-0.1),
        dict(beta=float('inf')),
        dict(beta=float('nan')),
        dict(beta='0.1'),
        dict(beta=True),
        dict(label_smoothing=0.5),
        dict(label_smoothing=-0.1),
        dict(label_smoothing=None),
    ],
)
def test_settings_out_of_range(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=rf'preference\.{name} is .*; expect'):
        PreferenceTraining(**settings)


def test_answers_are_generated_as_before(build, build_tiny, samples):
    with_preference, without = build(), build_tiny()
    answers = [
        [a.text for a in model.eval().generate(samples, max_new_tokens=4)]
        for model in (with_preference, without)
    ]
    assert answers[0] == answers[1]
