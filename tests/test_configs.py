# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Every shipped config loads, builds its model, and can be written again."""

import ast
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from transformers import CONFIG_MAPPING

from minigpt4.models.vision import build_vision
from minigpt4.registry import MODELS
from minigpt4.weights.model_hub import our_models

ROOT = Path(__file__).parents[1] / 'configs/minigpt4'
FILES = sorted(ROOT.rglob('*.py'))
CONFIGS = [path for path in FILES if '_base_' not in path.parts]
VICUNA_7B = 768 * 4096 + 4096
# a linear layer, 8 tokens of the prefix and 16 position biases
SMALL = 2560 * 576 + 576 + (8 + 16) * 576
NANO = 128 * 192 + 192
LORA_7B = 32 * 2 * 64 * (4096 + 4096)  # of q_proj and v_proj
TRAINED = dict(
    stage1_nano_ablation_a=512 * 192 + 192,
    stage2_nano_ablation_a=512 * 192 + 192,
    stage1_nano_ablation_b=NANO + 2 * (192 * 192 + 192),
    stage2_nano_ablation_b=NANO + 2 * (192 * 192 + 192),
    stage1_nano_ablation_c=NANO,
    stage2_nano_ablation_c=NANO,
    stage1_small_ablation_b=SMALL + 2 * (576 * 576 + 576),
    stage2_small_ablation_b=SMALL + 2 * (576 * 576 + 576),
    stage2_finetune_vicuna=VICUNA_7B + LORA_7B,
    stage2_nano_finetune_vicuna=NANO + 4 * 2 * 8 * (192 + 192),
    stage2_locna=VICUNA_7B,
    stage2_blip2_opt_ft=768 * 2560 + 2560,
    stage2_nano_locna=NANO,
    stage1_nano_blip2=NANO,
    stage2_nano_blip2_ft=NANO,
    dpo=VICUNA_7B,
    dpo_nano=128 * 192 + 192,
    minigpt_4_nano_caption=128 * 192 + 192,
    minigpt_4_llama2_7b_caption=23_072_768,
    minigpt_4_vicuna_13b_caption=3_937_280,
    minigpt_4_vicuna_7b_caption=VICUNA_7B,
    stage1=3_149_824,
    stage1_13b=3_937_280,
    stage1_13b_sharded=3_937_280,
    stage1_ablation_a=23_072_768,
    stage1_ablation_b=VICUNA_7B + 2 * (4096 * 4096 + 4096),
    stage1_llama2_7b=23_072_768,
    stage1_nano=128 * 192 + 192,
    stage2=3_149_824,
    stage2_1000it=3_149_824,
    stage2_13b=3_937_280,
    stage2_ablation_a=23_072_768,
    stage2_ablation_b=VICUNA_7B + 2 * (4096 * 4096 + 4096),
    stage2_llama2_7b=23_072_768,
    stage2_nano=128 * 192 + 192,
    minigpt_4_small_caption=SMALL,
    stage1_small=SMALL,
    stage2_small=SMALL,
    stage2_small_curated=SMALL,
    minigpt_4_smollm2_135m_caption=768 * 576 + 576,
    stage1_smollm2_135m=768 * 576 + 576,
    stage2_smollm2_135m=768 * 576 + 576,
    minigpt_4_smollm2_1_7b_caption=768 * 2048 + 2048,
    stage1_smollm2_1_7b=768 * 2048 + 2048,
    stage2_smollm2_1_7b=768 * 2048 + 2048,
    minigpt_4_qwen3_0_6b_caption=768 * 1024 + 1024,
    stage1_qwen3_0_6b=768 * 1024 + 1024,
    stage2_qwen3_0_6b=768 * 1024 + 1024,
    minigpt_4_llama3_2_1b_caption=768 * 2048 + 2048,
    stage1_llama3_2_1b=768 * 2048 + 2048,
    stage2_llama3_2_1b=768 * 2048 + 2048,
)
each_config = pytest.mark.parametrize(
    'path', CONFIGS, ids=[path.stem for path in CONFIGS]
)


def build(cfg):
    model_type = cfg.model.decoder.arch.model_type
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f'transformers does not know {model_type}')
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def test_their_number():
    assert len(CONFIGS) == 55
    assert {p.stem for p in CONFIGS} == {
        *TRAINED,
        'test_chair',
        'test_pope',
        'stage1_ablation_c',
        'stage2_ablation_c',
    }


def test_inference_reads_images_exactly():
    for path in ROOT.glob('*_caption.py'):
        cfg = Config.fromfile(path)
        step = cfg.test_dataloader.dataset.pipeline[0]
        backbone = {**cfg.model.backbone, 'checkpoint': None}
        with torch.device('meta'):
            size = MODELS.build(backbone).img_size
        assert step.exact and step.size == size


@each_config
def test_model_builds_and_trains_what_it_should(path):
    if path.stem.endswith('finetune_vicuna'):
        pytest.importorskip('peft', reason='LoRA needs peft')
    model = build(Config.fromfile(path))
    trained = {
        name: parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    if path.stem.endswith('ablation_c'):
        assert {n.split('.')[0] for n in trained} == {'neck', 'head'}
        trained = {n: k for n, k in trained.items() if n[:5] == 'head.'}
    parts = {n.split('.')[0] for n in trained}
    if path.stem.endswith('finetune_vicuna'):
        lora = [n for n in trained if n.startswith('decoder.')]
        assert parts == {'head', 'decoder'}
        assert all('.lora_' in name for name in lora)
    else:
        assert parts == {'head'}
    assert sum(trained.values()) == TRAINED.get(path.stem, VICUNA_7B)
    assert all(parameter.is_meta for parameter in model.parameters())


@each_config
def test_dumped_config_is_the_same(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert again.to_dict() == cfg.to_dict()
    assert again.model.type == 'minigpt4.models.MiniGPT4'
    if path.stem.endswith('nano'):
        assert type(build(again)) is type(build(cfg))


@pytest.mark.parametrize(
    'name, iterations, batch, decay, rate',
    [
        ('stage1', 20000, 256, (5000, 8e-5), 1e-4),
        ('stage2', 400, 12, (80, 1e-5), 3e-5),
        ('stage2_1000it', 1000, 12, (200, 1e-5), 3e-5),
    ],
)
def test_schedules_of_the_paper(name, iterations, batch, decay, rate):
    cfg = Config.fromfile(ROOT / f'{name}.py')
    assert (cfg.max_iters, cfg.global_batch_size) == (iterations, batch)
    schedule = cfg.param_scheduler[0]
    assert (schedule.warmup, schedule.minimum) == decay
    assert cfg.optim_wrapper.optimizer.lr == rate


def test_stages_differ_in_template_and_length():
    one, two = (Config.fromfile(ROOT / f'stage{i}.py').model for i in (1, 2))
    assert (one.prompt_template, one.max_text_length) == ('bare', 32)
    assert (two.prompt_template, two.max_text_length) == ('vicuna_v0', 160)
    llama = Config.fromfile(ROOT / 'stage2_llama2_7b.py').model
    assert llama.prompt_template == 'llama2'
    one, two = (
        Config.fromfile(ROOT / f'stage{i}_qwen3_0_6b.py').model for i in (1, 2)
    )
    assert (one.prompt_template, two.prompt_template) == ('bare', 'chat')


@pytest.mark.parametrize(
    'name, parameters',
    [
        ('small', 134_515_008),
        ('smollm2_135m', 134_515_008),
        ('smollm2_1_7b', 1_711_376_384),
        ('qwen3_0_6b', 596_049_920),
        ('llama3_2_1b', 1_235_814_400),
    ],
)
def test_parameters_of_small_llms(name, parameters):
    """As the publishers count them, and all parts in the metafile."""
    model = build(Config.fromfile(ROOT / f'minigpt_4_{name}_caption.py'))
    assert sum(p.numel() for p in model.decoder.parameters()) == parameters
    config = f'minigpt_4_{name}_caption.py'
    (entry,) = (
        entry
        for entry in our_models().values()
        if Path(entry.config).name == config
    )
    total = sum(p.numel() for p in model.parameters())
    assert entry.metadata.parameters == total


@pytest.mark.parametrize('path', FILES, ids=[path.stem for path in FILES])
def test_declarations_only(path):
    """File names are identifiers; imports are ours, mmengine's or torch's."""
    assert path.stem.isidentifier()
    text = path.read_text(encoding='utf-8')
    assert ast.get_docstring(ast.parse(text))
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Import)
        if isinstance(node, ast.ImportFrom) and not node.level:
            top = node.module.split('.')[0]
            assert top in ('minigpt4', 'mmengine', 'torch')


BACKBONES = re.findall(
    r'```python\n(from mmengine.*?)```',
    (ROOT.parents[1] / 'docs/backbones.md').read_text(),
    re.DOTALL,
)
# tokens and width of each example; None where it names a folder
VISION_SIZES = [(49, 2048), None, None, (32, 768), (17, 1280)]


@pytest.mark.parametrize('number', range(len(VISION_SIZES)))
def test_examples_of_other_backbones(tmp_path, number):
    assert len(BACKBONES) == len(VISION_SIZES)
    shutil.copytree(ROOT / '_base_', tmp_path / '_base_')
    (tmp_path / 'example.py').write_text(BACKBONES[number])
    model = Config.fromfile(tmp_path / 'example.py').model
    assert model.prompt_template == 'bare'
    if VISION_SIZES[number] is None:
        assert model.backbone.name_or_path
        return
    backbone = {**model.backbone, 'checkpoint': None}
    neck = {k: v for k, v in model.neck.items() if k != 'checkpoint'}
    normalizer = model.get('data_preprocessor')
    # MMPretrain's ResNet is small; EVA-ViT-g is not
    device = 'meta' if 'arch' in backbone else 'cpu'
    with torch.device(device):
        vision = build_vision(backbone, neck, normalizer)
    assert (
        vision.neck.num_tokens,
        vision.neck.out_channels,
    ) == VISION_SIZES[number]


OWN_SHARDS = re.findall(
    r'```python\n(from mmengine[^`]*)```',
    (ROOT.parents[1] / 'docs/data.md')
    .read_text()
    .partition('### Your own shards')[2]
    .partition('\n### ')[0],
)


@pytest.mark.parametrize('number', range(2))
def test_configs_on_own_shards_read_nothing_else(tmp_path, number):
    assert len(OWN_SHARDS) == 2
    shutil.copytree(ROOT, tmp_path / 'configs')
    path = tmp_path / 'configs' / 'mine.py'
    path.write_text(OWN_SHARDS[number])
    cfg = Config.fromfile(path)
    (source,) = cfg.train_dataloader.dataset.sources
    assert source.shards == 'data/mine/*.tar'
    assert set(re.findall(r"'(data/[\w./*]+)'", cfg.pretty_text)) == {
        'data/mine/*.tar'
    }
