# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Vision models of transformers, from small random folders."""

import json

import pytest
import torch
import transformers

from minigpt4.models import HFVisionBackbone, ImageNormalizer, PatchTokens
from minigpt4.models.vision import build_vision

SIZES = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
)
TEXT = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    vocab_size=50,
)
DINO = {k: v for k, v in SIZES.items() if k != 'intermediate_size'}
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.3, 0.5]


def build(kind):
    """A random model of transformers."""
    torch.manual_seed(0)
    if kind == 'clip':
        config = transformers.CLIPConfig(vision_config=SIZES, text_config=TEXT)
        return transformers.CLIPModel(config)
    if kind == 'siglip':
        config = transformers.SiglipConfig(
            vision_config=SIZES, text_config=TEXT
        )
        return transformers.SiglipModel(config)
    if kind == 'dinov2':
        return transformers.Dinov2Model(transformers.Dinov2Config(**DINO))
    config = transformers.Dinov2WithRegistersConfig(
        **DINO, num_register_tokens=3
    )
    return transformers.Dinov2WithRegistersModel(config)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Function of a kind to a folder with a small random model."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            build(kind).save_pretrained(made[kind])
            settings = dict(
                image_mean=MEAN, image_std=STD, rescale_factor=1 / 255
            )
            (made[kind] / 'preprocessor_config.json').write_text(
                json.dumps(settings)
            )
        return made[kind]

    return folder


@pytest.fixture
def copy(folders, tmp_path):
    """A copy of the CLIP folder that a test may change."""
    for file in folders('clip').iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def expected_states(kind, images):
    """Hidden states and output of the whole model, registers included."""
    model = build(kind).eval()
    model = getattr(model, 'vision_model', model)
    with torch.no_grad():
        output = model(images, output_hidden_states=True)
    return output.hidden_states, output.last_hidden_state


@pytest.mark.parametrize('layer', [None, -2, 0])
@pytest.mark.parametrize(
    'kind, prefix, registers',
    [('clip', 1, 0), ('siglip', 0, 0), ('dinov2', 1, 0), ('registers', 1, 3)],
)
def test_tokens_are_the_hidden_states(folders, kind, prefix, registers, layer):
    backbone = HFVisionBackbone(str(folders(kind)), layer)
    images = torch.randn(2, 3, 28, 28)
    tokens = backbone(images)
    assert backbone.img_size == 28 and backbone.grid_size == (2, 2)
    assert backbone.num_class_tokens == prefix
    assert tokens.shape == (2, prefix + 4, backbone.out_channels)
    states, last = expected_states(kind, images)
    expected = last if layer is None else states[layer]
    torch.testing.assert_close(tokens[:, :prefix], expected[:, :prefix])
    torch.testing.assert_close(
        tokens[:, prefix:], expected[:, prefix + registers :]
    )
    assert not backbone.train().training and not tokens.requires_grad


@pytest.mark.parametrize('kind', ['clip', 'siglip', 'dinov2'])
def test_another_image_size(folders, kind):
    backbone = HFVisionBackbone(str(folders(kind)), img_size=42)
    tokens = backbone(torch.randn(1, 3, 42, 42))
    assert tokens.shape[1] == backbone.num_class_tokens + 9
    with pytest.raises(ValueError, match=r'expected \(B, 3, 42, 42\)'):
        backbone(torch.randn(1, 3, 28, 28))
    with pytest.raises(ValueError, match='img_size=40, .* no multiple of'):
        HFVisionBackbone(str(folders(kind)), img_size=40)


def test_the_normalisation_is_that_of_the_folder(folders, copy):
    config = dict(type=HFVisionBackbone, name_or_path=str(folders('siglip')))
    neck = dict(type=PatchTokens, grid=1, keep_global=True)
    normalizer = build_vision(config, neck).normalizer
    assert normalizer.mean.flatten().tolist() == pytest.approx(MEAN)
    assert normalizer.std.flatten().tolist() == pytest.approx(STD)
    with pytest.raises(ValueError, match=r'clip_vision_model need mean \(0.5'):
        build_vision(
            {**config, 'name_or_path': str(copy)},
            neck,
            dict(type=ImageNormalizer),
        )
    (copy / 'preprocessor_config.json').unlink()
    config['name_or_path'] = str(copy)
    with pytest.raises(ValueError, match='clip_vision_model do not state'):
        build_vision(config, neck)
    build_vision(config, neck, dict(type=ImageNormalizer))


def test_full_size_on_meta(folders):
    with torch.device('meta'):
        backbone = HFVisionBackbone(str(folders('clip')))
        assert backbone(torch.empty(2, 3, 28, 28)).shape == (2, 5, 16)


def test_low_precision_and_training(folders):
    backbone = HFVisionBackbone(str(folders('clip')), dtype='bfloat16')
    assert backbone(torch.randn(1, 3, 28, 28)).dtype == torch.bfloat16
    trained = HFVisionBackbone(
        str(folders('clip')), dtype='bfloat16', frozen=False
    )
    assert trained.train().training
    trained(torch.randn(1, 3, 28, 28)).sum().backward()
    weight = trained.model.get_input_embeddings().weight
    assert weight.grad.dtype == torch.float32


def change(path, **settings):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **settings}))


def test_unsuitable_folders_are_refused(copy, tiny_llm_dir, folders):
    def refused(match, folder=copy, **settings):
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            HFVisionBackbone(str(folder), **settings)

    refused('type llama; HFVisionBackbone takes clip', tiny_llm_dir)
    refused("'/nowhere' does not exist", '/nowhere')
    refused('layer=-5, but .* has 3 layers', layer=-5)
    change(copy / 'preprocessor_config.json', image_mean=[1, 2])
    refused('image_mean .*; expected three numbers')
    change(copy / 'preprocessor_config.json', rescale_factor=1 / 127.5)
    refused('scales pixels by 0.0078')
    config = (copy / 'config.json').read_text()
    change(copy / 'config.json', auto_map=dict(AutoModel='code.Model'))
    refused('names code to run')
    (copy / 'config.json').write_text(config)
    (copy / 'preprocessor_config.json').unlink()
    weights = copy / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-10])
    refused('model.safetensors')
    weights.unlink()
    refused('weights of the vision model .* cannot be loaded .no weights')
    # the weights of another model
    weights.write_bytes((folders('dinov2') / 'model.safetensors').read_bytes())
    refused('lack .* tensors of CLIPVisionModel')
