# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The composition: loss, gradients, trained weights and variants."""

import ast
import copy
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper

import minigpt4

HEAD = ['head.layers.0.weight', 'head.layers.0.bias']
CHECKPOINT = {*HEAD, 'llm_fingerprint'}


def collated(model, samples):
    """The only piece of a training batch."""
    (piece,) = model.collator(training=True)(samples)['pieces']
    return piece


def prepared(model, samples, training=True):
    collate = collated if training else collated_left
    return model.data_preprocessor(collate(model, samples), training)


def collated_left(model, samples):
    return model.collator(training=False)(samples)


def loss_of(model, samples):
    with torch.no_grad():
        return model(**prepared(model, samples), mode='loss')['loss']


class Recorder(OptimWrapper):
    """An optimizer wrapper of plain SGD that keeps the gradients."""

    def __init__(self, model, lr=0.0):
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        super().__init__(torch.optim.SGD(self.parameters, lr=lr))

    def step(self, **kwargs):
        self.gradients = [p.grad.clone() for p in self.parameters]
        super().step(**kwargs)


# loss


def test_batch_loss_is_the_token_weighted_mean_of_singles(
    tiny_model, mixed_samples
):
    singles, weights = [], []
    for sample in mixed_samples:
        singles.append(loss_of(tiny_model, [sample]))
        weights.append(len(collated(tiny_model, [sample])['inputs'].targets))
    assert len(set(weights)) > 1
    singles, weights = torch.stack(singles), torch.tensor(weights).float()
    assert singles.std() > 0.01
    expected = (singles * weights).sum() / weights.sum()
    torch.testing.assert_close(
        loss_of(tiny_model, mixed_samples), expected, atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        loss_of(tiny_model, mixed_samples[::-1]),
        expected,
        atol=1e-5,
        rtol=1e-5,
    )


def test_logits_of_mode_tensor_give_the_loss(tiny_model, mixed_samples):
    data = prepared(tiny_model, mixed_samples)
    inputs = data['inputs']
    with torch.no_grad():
        logits = tiny_model(**data)
        expected = tiny_model(**data, mode='loss')['loss']
    assert logits.shape == (
        *inputs.token_ids.shape,
        tiny_model.decoder.vocab_size,
    )
    rows = logits.flatten(0, 1)[inputs.target_positions].log_softmax(-1)
    got = -rows.gather(1, inputs.targets[:, None]).mean()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_loss_depends_on_images_and_their_order(tiny_model, make_sample):

    def loss(*images):
        return loss_of(
            tiny_model,
            [make_sample(images, '<ImageHere> or <ImageHere>', 'blue')],
        )

    assert loss(0, 1) == loss(0, 1)
    assert abs(loss(0, 1) - loss(1, 0)) > 1e-4
    assert abs(loss(0, 1) - loss(0, 2)) > 1e-4


def test_image_features_are_at_their_positions(tiny_model, mixed_samples):
    data = prepared(tiny_model, mixed_samples)
    with torch.no_grad():
        embeddings = tiny_model.embed_inputs(data['images'], data['inputs'])
        tokens = tiny_model.head(tiny_model.encode_images(data['images']))
        words = tiny_model.decoder.embed_tokens(data['inputs'].token_ids)
    positions = data['inputs'].image_positions
    flat = embeddings.flatten(0, 1)
    torch.testing.assert_close(flat[positions], tokens.flatten(0, 1))
    others = torch.ones(len(flat), dtype=torch.bool)
    others[positions] = False
    assert others.any()
    assert torch.equal(flat[others], words.flatten(0, 1)[others])


@pytest.mark.parametrize('pack_length', [1, 40, 256])
@pytest.mark.parametrize('decoder', [{}, dict(gradient_checkpointing=True)])
def test_packing_does_not_change_loss_and_gradient(
    build_tiny, mixed_samples, pack_length, decoder
):
    """With the stored prefix and without it."""
    results = []
    for length in (None, pack_length):
        model = build_tiny(pack_length=length, decoder=decoder)
        inputs = collated(model, mixed_samples)['inputs']
        assert inputs.packed == (length is not None)
        wrapper = Recorder(model)
        loss = model.train_step(mixed_samples, wrapper)['loss']
        results.append((loss, wrapper.gradients))
    assert results[0][1][0].abs().sum() > 1e-3
    # measured 5e-7 and 3e-7
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_a_stored_prefix_does_not_change_loss_and_gradient(
    build_tiny, make_sample
):
    samples = [
        make_sample([i], 'what', answer)
        for i, answer in enumerate(('blue', 'the large red square'))
    ]
    results = []
    for shared in (False, True):
        model = build_tiny(pack_length=None)
        if not shared:
            model.decoder.frozen = False  # K and V may change
        batch = model.collator(training=True)(samples)
        model.decoder.frozen = True
        inputs = batch['pieces'][0]['inputs']
        assert bool(inputs.prefix) == shared
        wrapper = Recorder(model)
        passes: list = []
        model.decoder.llm.base_model.register_forward_hook(
            lambda *_, passes=passes: passes.append(1)
        )
        loss = model.train_step(batch, wrapper)['loss']
        assert len(passes) == 1 + shared, 'one pass for the prefix'
        assert loss == model.train_step(batch, wrapper)['loss']
        assert len(passes) == 2 + shared, 'which is stored'
        results.append((loss, wrapper.gradients))
    # '<s>###Human: <Img>' is not in the batch
    assert len(inputs.prefix) > 3
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_packed_sequences_do_not_attend_to_each_other(tiny_model, make_sample):
    first = make_sample([0], 'what', 'the red circle')
    logits_of_first = []
    for other in ('blue', 'a small green square'):
        samples = [first, make_sample([1], 'describe', other)]
        data = prepared(tiny_model, samples)
        assert data['inputs'].packed
        with torch.no_grad():
            logits = tiny_model(**data)
        width = logits.shape[-1]
        positions = data['inputs'].target_positions[:3]  # of the first
        logits_of_first.append(logits.reshape(-1, width)[positions])
    torch.testing.assert_close(*logits_of_first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [1, 2, 3])
def test_micro_batches_give_the_same_loss_and_gradient(
    build_tiny, mixed_samples, size
):
    results = []
    for micro in (None, size):
        model = build_tiny(micro_batch_size=micro)
        wrapper = Recorder(model)
        out = model.train_step(mixed_samples, wrapper)
        results.append((out['loss'], wrapper.gradients))
        model.micro_batch_size = None
        torch.testing.assert_close(
            out['loss'], loss_of(model, mixed_samples), atol=1e-5, rtol=1e-5
        )
    assert results[0][1][0].abs().sum() > 1e-3
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_train_steps_reduce_the_loss(tiny_model, mixed_samples):
    wrapper = Recorder(tiny_model, lr=0.02)
    losses = [
        float(tiny_model.train_step(mixed_samples, wrapper)['loss'])
        for _ in range(8)
    ]
    assert losses[-1] < losses[0] - 0.2
    # gradients are reset for the next step
    assert all(p.grad is None for p in tiny_model.parameters())


def test_a_batch_without_images_or_readable_samples(tiny_model, make_sample):
    before = copy.deepcopy(tiny_model.state_dict())
    wrapper = Recorder(tiny_model, lr=0.1)
    text = [make_sample([], 'what', 'blue')]
    out = tiny_model.train_step(text, wrapper)
    torch.testing.assert_close(out['loss'], loss_of(tiny_model, text))
    assert tiny_model.train_step([None, None], wrapper)['loss'] == 0
    assert all(g.abs().sum() == 0 for g in wrapper.gradients)
    for name in HEAD:
        assert torch.equal(tiny_model.state_dict()[name], before[name])


def test_unreadable_samples_do_not_change_the_loss(tiny_model, mixed_samples):
    assert loss_of(tiny_model, [None, *mixed_samples]) == loss_of(
        tiny_model, mixed_samples
    )


def test_a_batch_without_supervised_tokens_is_an_error(
    tiny_model, make_sample
):
    open_ended = [make_sample([0], 'what')]
    with pytest.raises(ValueError, match=r'none of the \d+ tokens .* answer'):
        loss_of(tiny_model, open_ended)
    with pytest.raises(ValueError, match=r'none of the \d+ tokens .* answer'):
        tiny_model.train_step(open_ended, Recorder(tiny_model))


def test_max_text_length_truncates_in_training_only(build_tiny, mixed_samples):
    model = build_tiny(max_text_length=2)
    counts = [
        model.collator(training=training)(mixed_samples)['counts']['truncated']
        for training in (True, False)
    ]
    assert counts[0] > 0 and counts[1] == 0


# modes and calls


def test_unknown_mode_and_missing_inputs(tiny_model, make_sample):
    data = prepared(tiny_model, [make_sample([0], 'what', 'blue')])
    with pytest.raises(ValueError, match="'train'; expected tensor, loss or"):
        tiny_model(**data, mode='train')
    with pytest.raises(ValueError, match='no inputs were given'):
        tiny_model(data['images'])


def test_predict_and_val_step(tiny_model, make_sample):
    tiny_model.generation = dict(max_new_tokens=5)
    samples = [make_sample([0], 'what', id=1), make_sample([], 'is a', id=2)]
    expected = tiny_model.generate(samples)
    got = tiny_model.val_step(samples)
    assert [s.id for s in got] == [1, 2]
    assert [(s.pred_caption, s.finished) for s in got] == [
        (a.text, a.finished) for a in expected
    ]
    collated = tiny_model.collator(training=False)([None, *samples])
    assert [s.pred_caption for s in tiny_model.test_step(collated)] == [
        a.text for a in expected
    ]
    # an empty loss, for mmengine's loops read the last output
    (nothing,) = tiny_model.val_step([None])
    assert nothing.keys() == ['loss'] and nothing.loss == {}
    # samples are optional, as the signature says
    data = prepared(tiny_model, samples, training=False)
    bare = tiny_model(data['images'], data['inputs'], mode='predict')
    assert [s.pred_caption for s in bare] == [a.text for a in expected]


def test_a_training_batch_cannot_be_answered(tiny_model, mixed_samples):
    data = prepared(tiny_model, mixed_samples)
    with pytest.raises(ValueError, match='packed training batch cannot be'):
        tiny_model(**data, mode='predict')
    tiny_model.pack_length, tiny_model.decoder.frozen = None, False
    data = prepared(tiny_model, mixed_samples)
    with pytest.raises(ValueError, match='ends in padding'):
        tiny_model(**data, mode='predict')


def test_settings_of_a_call_override_those_of_the_model(
    build_tiny, make_sample
):
    model = build_tiny(generation=dict(max_new_tokens=3))
    sample = make_sample([0], 'what')
    assert len(model.generate([sample])[0].token_ids) == 3
    longer = model.generate([sample], max_new_tokens=4)[0]
    assert len(longer.token_ids) == 4
    assert model.generation == dict(max_new_tokens=3)


# frozen and trained


def test_trained_names_are_the_head(tiny_model, tiny_cfg):
    assert tiny_model.trained_names == HEAD
    arch = dict(
        model_type='llama',
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=100,
    )
    from minigpt4.registry import MODELS

    with torch.device('meta'):
        full = MODELS.build(
            dict(
                type='minigpt4.MiniGPT4',
                backbone=dict(type='minigpt4.EVAViT'),
                neck=dict(type='minigpt4.QFormer'),
                head=dict(type='minigpt4.LinearProjector'),
                decoder=dict(
                    type='minigpt4.LLMDecoder', name_or_path='a/b', arch=arch
                ),
            )
        )
    assert full.trained_names == HEAD
    assert full.head.layers[0].weight.shape == (64, 768)
    assert list(full.state_dict()) == HEAD


def test_train_keeps_frozen_components_in_eval(tiny_model, mixed_samples):
    assert tiny_model.neck.layers[0].mlp.dropout == 0.1
    for mode in (True, False, True):
        assert tiny_model.train(mode) is tiny_model
        assert tiny_model.training == tiny_model.head.training == mode
        for component in (
            tiny_model.backbone,
            tiny_model.neck,
            tiny_model.decoder.llm,
        ):
            assert not any(m.training for m in component.modules())
    assert loss_of(tiny_model, mixed_samples) == loss_of(
        tiny_model, mixed_samples
    )


def test_frozen_components_have_no_gradient_and_no_graph(
    tiny_model, mixed_samples
):
    data = prepared(tiny_model, mixed_samples)
    assert not tiny_model.encode_images(data['images']).requires_grad
    tiny_model(**data, mode='loss')['loss'].backward()
    with_gradient = [
        n for n, p in tiny_model.named_parameters() if p.grad is not None
    ]
    assert with_gradient == HEAD


def test_init_weights_changes_nothing(tiny_model):
    before = {n: p.clone() for n, p in tiny_model.named_parameters()}
    tiny_model.init_weights()
    for name, parameter in tiny_model.named_parameters():
        assert torch.equal(parameter, before[name]), name


# variants


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_low_precision_decoder_with_fp32_head(
    build_tiny, mixed_samples, make_sample, dtype
):
    model = build_tiny(decoder=dict(dtype=dtype))
    assert model.head.layers[0].weight.dtype == torch.float32
    wrapper = Recorder(model)
    loss = model.train_step(mixed_samples, wrapper)['loss']
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, loss_of(build_tiny(), mixed_samples), atol=0.1, rtol=0.02
    )
    assert wrapper.gradients[0].dtype == torch.float32
    assert wrapper.gradients[0].isfinite().all()
    assert wrapper.gradients[0].abs().sum() > 0
    (answer,) = model.generate([make_sample([0], 'what')], max_new_tokens=4)
    assert len(answer.token_ids) <= 4


def test_patch_merge_instead_of_q_former(build_tiny, mixed_samples):
    model = build_tiny(
        neck=dict(
            type='minigpt4.PatchMerge', in_channels=32, num_patches=4, merge=2
        )
    )
    assert model.head.layers[0].weight.shape == (32, 64)
    assert model.trained_names == HEAD
    inputs = collated(model, mixed_samples)['inputs']
    assert len(inputs.image_positions) == 4 * 2
    wrapper = Recorder(model)
    model.train_step(mixed_samples, wrapper)
    assert wrapper.gradients[0].abs().sum() > 0


def test_three_layers(build_tiny, mixed_samples):
    model = build_tiny(head=dict(num_layers=3))
    assert model.trained_names == [
        f'head.layers.{i}.{kind}'
        for i in (0, 2, 4)
        for kind in ('weight', 'bias')
    ]
    assert set(model.state_dict()) == {*model.trained_names, 'llm_fingerprint'}
    wrapper = Recorder(model)
    model.train_step(mixed_samples, wrapper)
    assert all(g.abs().sum() > 0 for g in wrapper.gradients)


def test_an_unfrozen_neck_is_trained_and_saved(build_tiny, mixed_samples):
    model = build_tiny(neck=dict(frozen=False))
    names = set(model.trained_names)
    assert names == {
        *HEAD,
        *(f'neck.{n}' for n, _ in model.neck.named_parameters()),
    }
    assert set(model.state_dict()) == {*names, 'llm_fingerprint'}
    wrapper = Recorder(model)
    model.train_step(mixed_samples, wrapper)
    assert all(g.isfinite().all() for g in wrapper.gradients)
    by_name = dict(zip(model.trained_names, wrapper.gradients, strict=True))
    assert by_name['neck.query_tokens'].abs().sum() > 0
    assert loss_of(model, mixed_samples) != loss_of(model, mixed_samples)
    model.eval()
    assert loss_of(model, mixed_samples) == loss_of(model, mixed_samples)
    assert model.train().neck.training and not model.backbone.training


def test_unfrozen_backbone_is_trained_through_the_frozen_neck(
    build_tiny, mixed_samples
):
    model = build_tiny(backbone=dict(frozen=False))
    assert not any(name.startswith('neck') for name in model.trained_names)
    wrapper = Recorder(model)
    model.train_step(mixed_samples, wrapper)
    by_name = dict(zip(model.trained_names, wrapper.gradients, strict=True))
    assert by_name['backbone.cls_token'].abs().sum() > 0


def test_lora(build_tiny, mixed_samples):
    pytest.importorskip('peft', reason='LoRA needs peft')
    model = build_tiny(
        decoder=dict(lora=dict(r=4, target_modules=['q_proj', 'v_proj']))
    )
    adapters = [n for n in model.trained_names if 'lora' in n]
    assert len(adapters) == 2 * 2 * 2
    assert set(model.trained_names) == {*adapters, *HEAD}
    wrapper = Recorder(model)
    model.train_step(mixed_samples, wrapper)
    assert sum(g.abs().sum() > 0 for g in wrapper.gradients) > 2


def test_template_and_device(build_tiny):
    from minigpt4.prompts import get_template

    model = build_tiny(prompt_template='bare', device='cpu')
    assert model.template is get_template('bare')
    assert model.collator(training=True).template is model.template
    expected = 'cuda' if torch.cuda.is_available() else 'cpu'
    assert (
        build_tiny(device='auto').head.layers[0].weight.device.type == expected
    )
    with pytest.raises(ValueError, match="unknown prompt template 'other'"):
        build_tiny(prompt_template='other')


def test_the_mmengine_runner_trains_and_saves(
    tiny_cfg, mixed_samples, tmp_path
):
    from mmengine.runner import Runner
    from torch.utils.data import DataLoader

    runner = Runner(
        model=tiny_cfg,
        work_dir=str(tmp_path),
        train_dataloader=DataLoader(
            mixed_samples * 2, batch_size=4, collate_fn=list
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        log_level='ERROR',
        experiment_name='tiny',
    )
    model = runner.model
    before = model.head.layers[0].weight.clone()
    frozen = model.neck.query_tokens.clone()
    runner.train()
    assert not torch.equal(model.head.layers[0].weight, before)
    assert torch.equal(model.neck.query_tokens, frozen)
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)
    assert set(saved['state_dict']) == CHECKPOINT
    assert len(saved['message_hub']['log_scalars']['train/loss'].data[0]) == 4


def test_packed_attention_gives_the_same_loss_and_gradient(
    build_tiny, mixed_samples, monkeypatch
):
    """As the block mask of a pack."""
    model = build_tiny(pack_length=256)
    assert model.decoder.supports_packed_attention
    assert model.decoder.llm.config._attn_implementation == 'sdpa'
    batch = model.collator(training=True)(mixed_samples)
    inputs = batch['pieces'][0]['inputs']
    assert len(inputs.token_ids) == 1  # one pack
    wrapper = Recorder(model)
    loss = model.train_step(batch, wrapper)['loss']
    packed = loss, wrapper.gradients
    # the attention function is set during the pass only
    assert model.decoder.llm.config._attn_implementation == 'sdpa'
    assert not model.decoder.llm.base_model.layers[-1].mlp._forward_hooks
    monkeypatch.setattr(
        type(model.decoder), 'supports_packed_attention', False
    )
    batch = model.collator(training=True)(mixed_samples)
    loss = model.train_step(batch, wrapper)['loss']
    # measured 1e-7 and 2e-7
    torch.testing.assert_close(
        packed, (loss, wrapper.gradients), atol=1e-5, rtol=1e-5
    )


def test_packed_attention_with_a_stored_prefix(
    build_tiny, make_sample, monkeypatch
):
    samples = [
        make_sample([i], 'what', answer)
        for i, answer in enumerate(('blue', 'the large red square'))
    ]
    model = build_tiny()
    wrapper = Recorder(model)
    results = []
    for packed in (True, False):
        monkeypatch.setattr(
            type(model.decoder), 'supports_packed_attention', packed
        )
        batch = model.collator(training=True)(samples)
        assert bool(batch['pieces'][0]['inputs'].prefix) == packed
        loss = model.train_step(batch, wrapper)['loss']
        results.append((loss, wrapper.gradients))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_packed_attention_of_each_family(
    family_model, mixed_samples, monkeypatch
):
    """Loss and gradient are those of samples that are not packed."""
    model = family_model
    wrapper = Recorder(model)
    results = []
    for packed in (True, False):
        monkeypatch.setattr(model, 'pack_length', 256 if packed else None)
        if not packed:
            monkeypatch.setattr(
                type(model.decoder), 'supports_packed_attention', False
            )
        assert model.decoder.supports_shared_prefix == packed
        batch = model.collator(training=True)(mixed_samples)
        inputs = batch['pieces'][0]['inputs']
        assert (len(inputs.token_ids) == 1) == packed
        loss = model.train_step(batch, wrapper)['loss']
        results.append((loss, wrapper.gradients))
    assert results[0][1][0].abs().sum() > 1e-3
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_stored_prefix_of_each_family(family_model, make_sample, monkeypatch):
    samples = [
        make_sample([i], 'what', answer)
        for i, answer in enumerate(('blue', 'the large red square'))
    ]
    model = family_model
    wrapper = Recorder(model)
    results = []
    for packed in (True, False):
        monkeypatch.setattr(
            type(model.decoder), 'supports_packed_attention', packed
        )
        batch = model.collator(training=True)(samples)
        assert bool(batch['pieces'][0]['inputs'].prefix) == packed
        loss = model.train_step(batch, wrapper)['loss']
        results.append((loss, wrapper.gradients))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    'config',
    [
        dict(model_type='gemma', num_key_value_heads=1, head_dim=8),
        dict(model_type='phi3', num_key_value_heads=2),
        dict(
            model_type='mistral',
            num_key_value_heads=2,
            sliding_window=8,
            max_position_embeddings=256,
        ),
    ],
    ids=['gemma', 'phi3', 'mistral with a short window'],
)
def test_other_llms_are_trained_without_packed_attention(
    build_tiny, make_llm, tiny_tokenizer, mixed_samples, config
):
    """Loss and gradient are those of samples that are not packed."""
    folder = make_llm(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        pad_token_id=0,
        **config,
    )
    results = []
    for pack_length in (256, None):
        model = build_tiny(
            decoder=dict(name_or_path=str(folder)), pack_length=pack_length
        )
        assert not model.decoder.supports_packed_attention
        wrapper = Recorder(model)
        loss = model.train_step(mixed_samples, wrapper)['loss']
        results.append((loss, wrapper.gradients))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_compiled_layers_of_each_family(family_model, mixed_samples):
    model = family_model
    wrapper = Recorder(model)
    expected = model.train_step(mixed_samples, wrapper)['loss']
    gradients = wrapper.gradients
    torch.compiler.reset()
    model.compile_layers('aot_eager')
    loss = model.train_step(mixed_samples, wrapper)['loss']
    torch.testing.assert_close(
        (loss, wrapper.gradients), (expected, gradients), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    'backend, settings',
    [
        ('aot_eager', {}),
        ('aot_eager', dict(pack_length=None)),
        pytest.param('inductor', {}, marks=pytest.mark.slow),
    ],
)
def test_compiled_layers_give_the_same_loss_and_gradient(
    build_tiny, mixed_samples, backend, settings
):
    """All layers share one compiled code; generation is not compiled."""
    model = build_tiny(**settings)
    wrapper = Recorder(model)
    few = mixed_samples[:2]
    expected = []
    for samples in (mixed_samples, few):
        expected += [
            model.train_step(samples, wrapper)['loss'],
            wrapper.gradients,
        ]
    answers = model.generate([mixed_samples[0]])
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model.compile_layers(backend)
    found = []
    for samples in (mixed_samples, few):
        found += [
            model.train_step(samples, wrapper)['loss'],
            wrapper.gradients,
        ]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # one compiled code for any number of images, from the third on
    model.train_step(mixed_samples[:1] * 3, wrapper)
    graphs = counters['stats']['unique_graphs']
    assert graphs > 0
    model.train_step(mixed_samples[:1] * 5, wrapper)
    # between steps the layers are not compiled
    layers = model.decoder.llm.base_model.layers
    assert not any('forward' in vars(layer) for layer in layers)
    assert model.generate([mixed_samples[0]]) == answers
    assert counters['stats']['unique_graphs'] == graphs


def test_compiled_layers_of_a_sharded_llm_are_refused(build_tiny):
    model = build_tiny()
    model.decoder.sharded = True
    with pytest.raises(ValueError, match='omit model.compile'):
        model.compile_layers()


def test_context_is_limited_by_the_llm_and_the_config(build_tiny, make_sample):
    model = build_tiny()
    limit = model.decoder.llm.config.max_position_embeddings
    assert model.context_length == limit
    assert build_tiny(max_context=limit + 1).context_length == limit
    model = build_tiny(max_context=30)
    assert model.context_length == 30
    with pytest.raises(ValueError, match='exceed the 30 tokens'):
        model.generate([make_sample([0], 'what')], max_new_tokens=28)


def test_line_length_is_a_deprecated_name(build_tiny):
    """Configs and work dirs of 0.1 have it."""
    with pytest.warns(FutureWarning, match='use model.pack_length'):
        model = build_tiny(line_length=40)
    assert model.pack_length == 40


def test_models_are_imported_without_generation():
    """The model imports it when it answers."""
    package = Path(minigpt4.__file__).parent
    for file in (package / 'models').glob('*.py'):
        tree = ast.parse(file.read_text())
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert 'generation' not in ast.unparse(node), file.name


# chat templates


def test_chat_template_of_the_tokenizer(build_chat, chat_llm_dir):
    from minigpt4.llm.load import load_tokenizer

    model = build_chat('llama_3')
    assert model.template.name == 'chat'
    tokenizer = load_tokenizer(str(chat_llm_dir('llama_3')))
    names = ['<|eot_id|>', '<|start_header_id|>', '<|end_header_id|>']
    assert [*model.stop_ids] == tokenizer.convert_tokens_to_ids(names)


def test_stop_ids_of_a_fixed_template_are_end_of_text(
    tiny_model, build_chat, chat_llm_dir
):
    assert tiny_model.stop_ids == (tiny_model.decoder.tokenizer.eos_token_id,)
    bare = build_chat('gemma')
    bare.decoder.stop_ids = (5,)
    assert 5 in bare.stop_ids
    bare.template = tiny_model.template
    assert bare.stop_ids == (bare.decoder.tokenizer.eos_token_id,)


def test_chat_template_on_the_meta_device():
    """Without files there is no tokenizer, and no prompt is rendered."""
    from minigpt4.registry import MODELS

    arch = dict(model_type='llama', hidden_size=64, num_attention_heads=2)
    arch |= dict(intermediate_size=64, num_hidden_layers=1, vocab_size=100)
    with torch.device('meta'):
        model = MODELS.build(
            dict(
                type='minigpt4.MiniGPT4',
                backbone=None,
                neck=dict(
                    type='minigpt4.CachedQueries', num_tokens=2, channels=8
                ),
                head=dict(type='minigpt4.LinearProjector'),
                decoder=dict(
                    type='minigpt4.LLMDecoder', name_or_path='a/b', arch=arch
                ),
                prompt_template='chat',
            )
        )
    assert model.template.name == 'chat'


def test_tokenizer_without_chat_template_is_refused(build_tiny, tiny_llm_dir):
    with pytest.raises(ValueError, match='has no chat template') as error:
        build_tiny(prompt_template='chat')
    assert str(tiny_llm_dir) in str(error.value)


@pytest.mark.parametrize('family', ['smollm2', 'mistral_v0_1', 'phi_3'])
def test_chat_training_supervises_the_answer_alone(
    build_chat, make_sample, family
):
    model = build_chat(family, system='Be brief.')
    inputs = model.collator(True)([make_sample([0], 'what', 'a circle')])
    inputs = inputs['pieces'][0]['inputs']
    tokenizer = model.decoder.tokenizer
    text = tokenizer.decode(inputs.targets.tolist())
    assert text.strip() == f'a circle{model.template.end}'
    assert inputs.image_positions.numel() == model.neck.num_tokens
    ids = [*inputs.prefix, *inputs.token_ids[0].tolist()]
    prompt = tokenizer.decode(ids)
    assert 'Be brief.' in prompt and 'what' in prompt
    loss = model.train_step([make_sample([0], 'what', 'a')], Recorder(model))
    assert loss['loss'] > 0


def test_batches_of_a_chat_model_are_answered_as_single_samples(
    build_chat, make_sample
):
    model = build_chat('qwen3')
    samples = [make_sample([0], 'what'), make_sample([1, 2], 'how many')]
    settings = dict(max_new_tokens=5)
    for extra in ({}, dict(num_beams=2)):
        batch = model.generate(samples, **settings, **extra)
        for sample, answer in zip(samples, batch, strict=True):
            (single,) = model.generate([sample], **settings, **extra)
            assert single == answer
