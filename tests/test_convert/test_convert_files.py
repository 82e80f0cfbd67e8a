# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files are converted between layouts without changing a bit."""

import contextlib
import os
import re
import resource
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from minigpt4 import get_model
from minigpt4.convert.convert_files import convert
from minigpt4.convert.model_shapes import expected_shapes, load_config
from minigpt4.utils.signals import StopSignal
from minigpt4.weights.layouts import to_layout
from minigpt4.weights.read import LazyTensor, open_tensors

NANO = 'minigpt-4_nano_caption'
SHIPPED = dict(
    backbone='nano/eva_vit.safetensors',
    neck='nano/q_former.safetensors',
    head='nano/minigpt4_nano.pth',
)
LLAMA = dict(model_type='llama', hidden_size=8)


@pytest.fixture
def config(tiny_cfg) -> Config:
    """A model of tiny components; of its LLM only the width is known."""
    model = dict(tiny_cfg)
    model['decoder'] = dict(model['decoder'], arch=LLAMA)
    return Config(dict(model=model))


@pytest.fixture
def tensors(config):
    """Random tensors of each component of ``config``, by our names."""
    torch.manual_seed(0)
    return {
        part: {name: torch.randn(shape) for name, shape in shapes.items()}
        for part, shapes in expected_shapes(config).items()
    }


def named(part, layout, tensors):
    lazy = {name: LazyTensor.of(t) for name, t in tensors.items()}
    return {n: t.read() for n, t in to_layout(part, layout, lazy).items()}


def assert_same(path, want):
    found = open_tensors(path)
    assert set(found) == set(want)
    for name, tensor in want.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].read(), tensor), name


@pytest.mark.parametrize('to', ['official', 'mmpretrain'])
@pytest.mark.parametrize('part', SHIPPED)
def test_conversion_and_back_changes_no_bit(tmp_path, part, to):
    """Including the fingerprint of the LLM."""
    source = SHIPPED[part]
    theirs = tmp_path / 'theirs.pth'
    back = tmp_path / ('back' + Path(source).suffix)
    convert(source, theirs, to=to, model=NANO)
    convert(theirs, back, model=NANO)
    assert_same(back, {n: t.read() for n, t in open_tensors(source).items()})
    # nothing but the tensors was saved
    size = sum(t.nbytes for t in open_tensors(source).values())
    assert theirs.stat().st_size < size + 30_000


def test_converted_files_make_the_same_model(tmp_path):
    for part in ('backbone', 'neck', 'head'):
        convert(
            SHIPPED[part],
            tmp_path / f'{part}.pth',
            to='mmpretrain',
            model=NANO,
        )
    ours = get_model(NANO)
    theirs = get_model(
        NANO,
        pretrained=str(tmp_path / 'head.pth'),
        backbone=dict(checkpoint=str(tmp_path / 'backbone.pth')),
        neck=dict(checkpoint=str(tmp_path / 'neck.pth')),
    )
    for (name, a), (_, b) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_official_eva_vit(tmp_path, config, tensors):
    """``eva_vit_g.pth`` is fp16, with a 40th block, a norm and a head."""
    mine = {n: t.half() for n, t in tensors['backbone'].items()}
    beside = {
        'blocks.2.norm1.weight': torch.ones(32),
        'norm.weight': torch.ones(32),
        'norm.bias': torch.ones(32),
        'head.weight': torch.ones(3, 32),
    }
    torch.save({**mine, **beside}, tmp_path / 'eva_vit_g.pth')
    out = tmp_path / 'eva_vit.safetensors'
    reports = convert(tmp_path / 'eva_vit_g.pth', out, model=config)
    assert list(reports) == ['backbone']
    assert set(reports['backbone'].left_over) == set(beside)
    assert_same(out, mine)


def test_official_blip2(tmp_path, config, tensors):
    beside = {
        'Qformer.bert.embeddings.position_ids': torch.arange(512)[None],
        't5_proj.weight': torch.ones(4, 24),
        't5_proj.bias': torch.ones(4),
    }
    theirs = {**named('neck', 'official', tensors['neck']), **beside}
    torch.save(dict(model=theirs), tmp_path / 'blip2.pth')
    out = tmp_path / 'q_former.safetensors'
    reports = convert(tmp_path / 'blip2.pth', out, model=config)
    assert reports['neck'].layout == 'official'
    assert set(reports['neck'].left_over) == set(beside)
    assert_same(out, tensors['neck'])


@pytest.mark.parametrize(
    'shape, words',
    [
        ((4096, 768), 'Vicuna-7B'),
        ((5120, 768), 'Vicuna-13B'),
        ((4096, 5632), 'LLaMA-2-7B without Q-Former'),
    ],
)
def test_official_projections(tmp_path, shape, words):
    """``prerained_minigpt4_7b.pth`` also has the optimizer and buffers."""
    torch.manual_seed(0)
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    content = dict(
        model={
            'llama_proj.weight': weight,
            'llama_proj.bias': bias,
            'Qformer.bert.embeddings.position_ids': torch.arange(512)[None],
        },
        optimizer=dict(state={}, param_groups=[dict(lr=1e-4)]),
        config=dict(run=dict(seed=42)),
        scaler=dict(scale=65536.0),
        epoch=3,
    )
    torch.save(content, tmp_path / 'prerained.pth')
    reports = convert(tmp_path / 'prerained.pth', tmp_path / 'ours.pth')
    assert words in str(reports['head'])
    assert len(reports['head'].left_over) == 1
    assert_same(
        tmp_path / 'ours.pth',
        {'head.layers.0.weight': weight, 'head.layers.0.bias': bias},
    )


@pytest.mark.parametrize('layout', ['official', 'mmpretrain'])
def test_file_of_a_complete_model(tmp_path, config, tensors, layout):
    prefix = dict(official='visual_encoder.', mmpretrain='vision_encoder.')
    content = {
        prefix[layout] + name: tensor
        for name, tensor in named(
            'backbone', layout, tensors['backbone']
        ).items()
    }
    content |= named('neck', layout, tensors['neck'])
    content |= named('head', layout, tensors['head'])
    content['llama_model.model.norm.weight'] = torch.ones(8)
    torch.save(dict(state_dict=content), tmp_path / 'all.pth')
    with pytest.raises(
        ValueError, match='holds backbone and neck and head; name a folder'
    ):
        convert(tmp_path / 'all.pth', tmp_path / 'one.pth', model=config)
    out = tmp_path / 'out-v1.5'
    reports = convert(tmp_path / 'all.pth', out, model=config)
    for report in reports.values():
        assert [*report.left_over] == ['llama_model.model.norm.weight']
    for part, file in dict(
        backbone='eva_vit.safetensors',
        neck='q_former.safetensors',
        head='minigpt4.pth',
    ).items():
        assert_same(out / file, tensors[part])


@pytest.mark.parametrize('out', ['folder', 'folder/', 'a.ckpt'])
def test_one_component_needs_a_file(tmp_path, out):
    with pytest.raises(
        ValueError, match='holds head; name a file .* in place'
    ):
        convert(SHIPPED['head'], tmp_path / out, model=NANO)
    assert not os.listdir(tmp_path)


def test_dtype(tmp_path):
    out = tmp_path / 'a.pth'
    convert(SHIPPED['head'], out, model=NANO, dtype='bfloat16')
    dtypes = {n: t.dtype for n, t in open_tensors(out).items()}
    assert dtypes == {
        'head.layers.0.weight': torch.bfloat16,
        'head.layers.0.bias': torch.bfloat16,
        'llm_fingerprint': torch.uint8,
    }


def test_head_of_several_layers_is_refused(tmp_path, config):
    config.model.head['num_layers'] = 3
    torch.manual_seed(0)
    head = {
        n: torch.randn(s) for n, s in expected_shapes(config)['head'].items()
    }
    torch.save(head, tmp_path / 'a.pth')
    convert(tmp_path / 'a.pth', tmp_path / 'b.pth', model=config)
    assert_same(tmp_path / 'b.pth', head)
    with pytest.raises(ValueError, match='several layers, for which the off'):
        convert(
            tmp_path / 'a.pth', tmp_path / 'c.pth', 'official', model=config
        )
    assert not (tmp_path / 'c.pth').exists()


@pytest.mark.parametrize(
    'spoil, sentence',
    [
        (
            lambda t: t.pop('ln_vision.weight'),
            r'lacks 1 of the \d+ tensors of the neck of .*ln_vision.*--model',
        ),
        (
            lambda t: t.update(query_tokens=torch.ones(1, 9, 24)),
            r'misshaped 1 .* query_tokens \(\(1, 9, 24\) instead of',
        ),
        (
            lambda t: [t.pop(n) for n in list(t) if n != 'query_tokens'],
            r'lacks \d+ of the \d+ tensors of the neck',
        ),
        (
            lambda t: [t.clear(), t.update(a=torch.ones(1))],
            'holds no backbone, neck or head of MiniGPT-4 but a; give one',
        ),
    ],
)
def test_files_of_another_model_are_refused(
    tmp_path, config, tensors, spoil, sentence
):
    theirs = named('neck', 'official', tensors['neck'])
    spoil(theirs)
    torch.save(dict(model=theirs), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=sentence) as error:
        convert(tmp_path / 'a.pth', tmp_path / 'b.pth', model=config)
    assert '\n' not in str(error.value)
    assert os.listdir(tmp_path) == ['a.pth']


def test_allowed_names_may_be_missing(tmp_path, config, tensors):
    theirs = named('neck', 'official', tensors['neck'])
    del theirs['ln_vision.weight']
    torch.save(theirs, tmp_path / 'a.pth')
    out = tmp_path / 'b.safetensors'
    reports = convert(
        tmp_path / 'a.pth', out, model=config, allow=['ln_vision.*']
    )
    assert reports['neck'].missing == ['ln_vision.weight']
    del tensors['neck']['ln_vision.weight']
    assert_same(out, tensors['neck'])


def test_file_of_another_size(tmp_path):
    """The nano file is not that of the default model."""
    with pytest.raises(
        ValueError, match=r'lacks 455 of the 511 .* of the backb'
    ):
        convert(SHIPPED['backbone'], tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'head .*\(192, 128\) instead of'):
        convert(SHIPPED['head'], tmp_path / 'a.pth')
    assert not os.listdir(tmp_path)


def test_unknown_model(tmp_path):
    with pytest.raises(ValueError, match="'minigpt-5' is no model of the hub"):
        convert(SHIPPED['neck'], tmp_path / 'a.pth', model='minigpt-5')


@contextlib.contextmanager
def full_disk():
    """Limit the size of files, as a full disk does.

    Only around a call: pytest's own output may be a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
@pytest.mark.parametrize('existing', [None, b'old'])
def test_full_disk_keeps_the_existing_output(tmp_path, name, existing):
    if existing is not None:
        (tmp_path / name).write_bytes(existing)
    message = f'{name} could not be written'
    with full_disk(), pytest.raises(OSError, match=message) as error:
        convert(SHIPPED['head'], tmp_path / name, model=NANO)
    if name == 'x.safetensors':
        assert re.search(r'it needs [\d,]+ bytes', str(error.value))
    if existing is None:
        assert os.listdir(tmp_path) == []
    else:
        assert os.listdir(tmp_path) == [name]
        assert (tmp_path / name).read_bytes() == existing


def test_output_link_is_kept_and_its_target_replaced(tmp_path):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'real' / 'a.pth').write_bytes(b'old')
    (tmp_path / 'a.pth').symlink_to('real/a.pth')
    convert(SHIPPED['head'], tmp_path / 'a.pth', model=NANO)
    assert (tmp_path / 'a.pth').is_symlink()
    assert 'head.layers.0.weight' in open_tensors(tmp_path / 'real' / 'a.pth')


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
def test_stopped_conversion_keeps_the_existing_output(
    tmp_path, monkeypatch, name
):
    def stop():
        raise StopSignal(15)

    def to(tensor, *_):
        return LazyTensor(tensor.shape, tensor.dtype, stop)

    monkeypatch.setattr(LazyTensor, 'to', to)  # called before writing
    (tmp_path / name).write_bytes(b'old')
    with pytest.raises(StopSignal):
        convert(SHIPPED['head'], tmp_path / name, model=NANO)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b'old'


def test_unknown_model_suggests_the_nearest_name():
    with pytest.raises(ValueError, match='did you mean minigpt-4_nano_cap'):
        load_config('minigpt-4_nano_captoin')


def test_a_model_of_another_backbone_is_refused(config):
    config.model.backbone = dict(type='minigpt4.EfficientNetLite')
    with pytest.raises(ValueError, match='EfficientNetLite, which no other'):
        expected_shapes(config)
