# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""transformers alone gives our answers; the import restores every bit."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from tests.test_convert.conftest import CHAT_LLMS
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    Blip2ForConditionalGeneration,
)

from minigpt4.captioning.inferencer import get_model, make_sample
from minigpt4.convert.folder_extras import LLM_FOLDER
from minigpt4.convert.huggingface_export import export_huggingface
from minigpt4.convert.huggingface_import import import_huggingface
from minigpt4.llm.fingerprint import decode_fingerprint
from minigpt4.prompts import Turn
from minigpt4.weights.position_embeddings import resize_positions
from minigpt4.weights.read import LazyTensor, open_tensors
from minigpt4.weights.shipped import NANO_FOLDER as SHIPPED

NANO = 'minigpt-4_nano_caption'
SCENE = Path(__file__).parents[2] / 'demo' / 'scene.png'
# more threads than free cores slow down small models
ONE_THREAD = dict(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE')
PIXELS = dict(type='minigpt4.ImageNormalizer', mean=(0.5,) * 3, std=(0.5,) * 3)
PROMPTS = (
    'Describe this image in detail.',
    'How many shapes are there?',
    'Write a poem about this image.',
)


def make_message(text, *images, role='user'):
    parts = [dict(type='image', path=str(image)) for image in images]
    return dict(role=role, content=[*parts, dict(type='text', text=text)])


def test_import_restores_every_bit_of_an_export(nano_folder, tmp_path):
    report = import_huggingface(nano_folder, tmp_path / 'back')
    assert not report.missing and not report.left_over
    files = {
        'eva_vit.safetensors': 'eva_vit.safetensors',
        'q_former.safetensors': 'q_former.safetensors',
        'minigpt4.pth': 'minigpt4_nano.pth',  # with the fingerprint
        LLM_FOLDER: 'llm',
    }
    for ours, shipped in files.items():
        back = open_tensors(tmp_path / 'back' / ours)
        expected = open_tensors(SHIPPED / shipped)
        assert set(back) == set(expected)
        for name, tensor in expected.items():
            assert back[name].dtype == tensor.dtype
            assert torch.equal(back[name].read(), tensor.read()), name
    for name in ('config.json', 'tokenizer.model', 'tokenizer_config.json'):
        file = tmp_path / 'back' / LLM_FOLDER / name
        assert file.read_bytes() == (SHIPPED / 'llm' / name).read_bytes()


def test_transformers_loads_every_tensor(nano_folder):
    _, report = Blip2ForConditionalGeneration.from_pretrained(
        nano_folder, output_loading_info=True
    )
    assert not any(report.values()), report


def test_dtype(nano_folder, tmp_path):
    export_huggingface(NANO, None, tmp_path / 'bf16', dtype='bfloat16')
    before = open_tensors(nano_folder)
    for name, tensor in open_tensors(tmp_path / 'bf16').items():
        in_fp32 = name.startswith(('qformer.', 'query_tokens'))
        expected = before[name].dtype if in_fp32 else torch.bfloat16
        assert tensor.dtype == expected, name
    config = json.loads((tmp_path / 'bf16' / 'config.json').read_text())
    assert config['torch_dtype'] == 'bfloat16'


def test_positions_of_another_image_size(nano_cfg, nano_folder, tmp_path):
    """The file is of 64 x 64 pixels, the model of 80 x 80."""
    nano_cfg.model.backbone.img_size = 80
    nano_cfg.model.check_vision = False
    checkpoint = SHIPPED / 'minigpt4_nano.pth'
    export_huggingface(nano_cfg, checkpoint, tmp_path / 'out')
    name = 'vision_model.embeddings.position_embedding'
    before, found = (
        open_tensors(folder)[name].read()
        for folder in (nano_folder, tmp_path / 'out')
    )
    assert found.shape == (1, 101, 128)
    torch.testing.assert_close(found, resize_positions(before, (10, 10), 1))
    _, report = Blip2ForConditionalGeneration.from_pretrained(
        tmp_path / 'out', output_loading_info=True
    )
    assert not any(report.values()), report


def test_checkpoint_without_fingerprint(tmp_path):
    """The official ones have none; the import computes it."""
    state = torch.load(SHIPPED / 'minigpt4_nano.pth', weights_only=False)
    official = {
        name.replace('head.layers.0', 'llama_proj'): tensor
        for name, tensor in state['state_dict'].items()
        if name != 'llm_fingerprint'
    }
    torch.save(dict(model=official), tmp_path / 'official.pth')
    export_huggingface(NANO, tmp_path / 'official.pth', tmp_path / 'hf')
    import_huggingface(tmp_path / 'hf', tmp_path / 'back')
    back = torch.load(tmp_path / 'back' / 'minigpt4.pth')['state_dict']
    expected = decode_fingerprint(state['state_dict']['llm_fingerprint'])
    for trained_with in ('template', 'vision'):  # the folder has neither
        expected.pop(trained_with)
    assert decode_fingerprint(back['llm_fingerprint']) == expected
    for name in official:
        ours = name.replace('llama_proj', 'head.layers.0')
        assert torch.equal(back[ours], official[name])


_ALONE = """
import json, sys
import torch, transformers
from transformers import AutoProcessor, Blip2ForConditionalGeneration

folder, scene, *prompts = sys.argv[1:]
new = tuple(map(int, transformers.__version__.split('.')[:2])) >= (4, 56)
model = Blip2ForConditionalGeneration.from_pretrained(
    folder, **{'dtype' if new else 'torch_dtype': torch.float32}
)
processor = AutoProcessor.from_pretrained(folder)


def answer(prompts):
    inputs = processor.apply_chat_template(
        [
            [{'role': 'user', 'content': [
                {'type': 'image', 'path': scene},
                {'type': 'text', 'text': prompt},
            ]}]
            for prompt in prompts
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors='pt',
        padding=True,
    )
    ids = model.generate(**inputs, generation_config=model.generation_config)
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
    return ids[:, inputs['input_ids'].shape[1] :].tolist(), logits.tolist()


together = answer(prompts)
alone = [answer([prompt]) for prompt in prompts]
assert 'minigpt4' not in sys.modules
print(json.dumps(dict(together=together, alone=alone)))
"""


def ask_transformers(python, folder, prompts):
    """Return the answers of a process that never imports our package."""
    run = subprocess.run(
        [python, '-c', _ALONE, str(folder), str(SCENE), *prompts],
        capture_output=True,
        text=True,
        env={**os.environ, **ONE_THREAD},
        cwd=folder.parent,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def check_answers(found, model, prompts):
    """Compare token ids and logits; the largest difference seen was 4e-6.

    One reason is the eps of ln_vision: 1e-6 there and 1e-5 here.
    """
    eos = model.decoder.tokenizer.eos_token_id
    for i, prompt in enumerate(prompts):
        sample = make_sample([SCENE], prompt, model.backbone.img_size)
        (ours,) = model.generate([sample])
        assert ours.finished and len(ours.token_ids) > 4
        batch = model.data_preprocessor(model.collator(False)([sample]), False)
        with torch.no_grad():
            logits = model(**batch, mode='tensor')[0, -1]
        (alone,), (alone_logits,) = found['alone'][i]
        assert alone == ours.token_ids
        padded = found['together'][0][i]
        assert padded[: len(alone)] == alone
        assert set(padded[len(alone) :]) <= {eos}
        for theirs in (alone_logits, found['together'][1][i]):
            worst = (torch.tensor(theirs) - logits).abs().max()
            assert worst < 2e-5, float(worst)


@pytest.mark.slow
def test_transformers_gives_our_answers(nano_folder, nano_model):
    found = ask_transformers(sys.executable, nano_folder, PROMPTS)
    check_answers(found, nano_model, PROMPTS)


@pytest.mark.slow
def test_oldest_transformers_gives_our_answers(nano_folder, nano_model):
    """MINIGPT4_OLDEST_PYTHON is a python that has transformers 4.49."""
    python = os.environ.get('MINIGPT4_OLDEST_PYTHON')
    if not python:
        pytest.skip('MINIGPT4_OLDEST_PYTHON is not set')
    found = ask_transformers(python, nano_folder, PROMPTS)
    check_answers(found, nano_model, PROMPTS)


def test_several_images_and_turns(nano_folder, nano_model):
    processor = AutoProcessor.from_pretrained(nano_folder, backend='pil')
    model = Blip2ForConditionalGeneration.from_pretrained(
        nano_folder, dtype=torch.float32
    )
    messages = [
        make_message('How many shapes are there?', SCENE, SCENE),
        make_message('There are three shapes.', role='assistant'),
        make_message('Write a poem about this image.', SCENE),
    ]
    inputs = processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors='pt',
    )
    ids = model.generate(**inputs, generation_config=model.generation_config)
    sample = make_sample([SCENE] * 3, '', 64)
    image = '<Img><ImageHere></Img>'
    sample.turns = [
        Turn(
            f'{image}{image} How many shapes are there?',
            'There are three shapes.',
        ),
        Turn(f'{image} Write a poem about this image.'),
    ]
    (ours,) = nano_model.generate([sample])
    assert ids[0, inputs['input_ids'].shape[1] :].tolist() == ours.token_ids


@pytest.mark.parametrize('family', sorted(CHAT_LLMS))
def test_chat_llms(family, chat_llm, tmp_path, nano_cfg):
    """Any LLM of AutoModelForCausalLM, also with tied weights."""
    llm = chat_llm(family)
    nano_cfg.model.decoder.update(arch=None, name_or_path=str(llm))
    nano_cfg.model.update(prompt_template='chat', system=None)
    nano_cfg.model.generation = dict(max_new_tokens=12)
    torch.manual_seed(0)
    head = {
        'head.layers.0.weight': torch.randn(32, 128) / 4,
        'head.layers.0.bias': torch.randn(32),
    }
    torch.save(head, tmp_path / 'head.pth')
    export_huggingface(nano_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    theirs, report = Blip2ForConditionalGeneration.from_pretrained(
        tmp_path / 'hf', output_loading_info=True, dtype=torch.float32
    )
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(tmp_path / 'hf', backend='pil')
    inputs = processor.apply_chat_template(
        [make_message('What is it?', SCENE)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors='pt',
    )
    ids = theirs.generate(**inputs, generation_config=theirs.generation_config)
    with torch.no_grad():
        found = theirs(**inputs).logits[0, -1]
    ours = get_model(nano_cfg, pretrained=False, device='cpu')
    ours.load_state_dict(head)
    sample = make_sample([SCENE], 'What is it?', 64)
    batch = ours.data_preprocessor(ours.collator(False)([sample]), False)
    with torch.no_grad():
        expected = ours(**batch, mode='tensor')[0, -1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    (answer,) = ours.generate([sample])
    assert len(answer.token_ids) > 4
    assert ids[0, inputs['input_ids'].shape[1] :].tolist() == answer.token_ids

    import_huggingface(tmp_path / 'hf', tmp_path / 'back')
    back = open_tensors(tmp_path / 'back' / LLM_FOLDER)
    for name, tensor in open_tensors(llm).items():
        assert torch.equal(back[name].read(), tensor.read()), name
    for file in llm.glob('*.j*'):
        if 'index' not in file.name:
            copy = tmp_path / 'back' / LLM_FOLDER / file.name
            assert copy.read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ('component', 'settings', 'message'),
    [
        ('neck', dict(type='minigpt4.PatchMerge'), 'has no Q-Former'),
        (
            'backbone',
            dict(type='minigpt4.EfficientNetLite', arch='lite0'),
            'EfficientNetLite with the neck .*QFormer, for which no class',
        ),
        (
            'backbone',
            dict(type='mmpretrain.ResNet', depth=18, checkpoint='r.pth'),
            'backbone mmpretrain.ResNet .* expected EVAViT with QFormer or',
        ),
        ('head', dict(num_layers=3), 'has several layers'),
        (
            'decoder',
            dict(lora=dict(r=4, use_dora=True)),
            'use_dora=True, which cannot be exported',
        ),
        ('decoder', dict(quantization=dict(load_in_8bit=True)), 'quantis'),
        ('decoder', dict(name_or_path='org/none'), 'no local folder'),
        ('backbone', dict(checkpoint=None), 'names no backbone.checkpoint'),
    ],
)
def test_unsupported_models_are_refused(
    nano_cfg, component, settings, message, tmp_path
):
    if component == 'backbone' and 'type' in settings:
        nano_cfg.model[component] = settings
    elif 'type' in settings:
        settings = dict(settings, in_channels=128, num_patches=64)
        nano_cfg.model[component] = settings
    else:
        nano_cfg.model[component].update(settings)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export_huggingface(
            nano_cfg, SHIPPED / 'minigpt4_nano.pth', tmp_path / 'out'
        )
    assert not list(tmp_path.iterdir())


def test_llm_that_is_not_causal_is_refused(nano_cfg, tmp_path):
    llm = shutil.copytree(SHIPPED / 'llm', tmp_path / 't5')
    AutoConfig.for_model('t5').save_pretrained(llm)
    with pytest.raises(ValueError, match='type t5, which is no causal LM'):
        export_huggingface(NANO, None, tmp_path / 'out', llm=llm)
    assert [path.name for path in tmp_path.iterdir()] == ['t5']


def test_llm_with_other_names_in_its_files_is_refused(
    make_llm, tmp_path, nano_cfg
):
    """transformers 5 calls embed_out of GPT-NeoX's files lm_head."""
    llm = make_llm(
        model_type='gpt_neox',
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=400,
    )
    names = set(open_tensors(llm))
    if names == set(AutoModelForCausalLM.from_pretrained(llm).state_dict()):
        pytest.skip('this transformers has the names of the files')
    nano_cfg.model.decoder.update(arch=None, name_or_path=str(llm))
    checkpoint = tmp_path / 'head.pth'
    head = {
        'head.layers.0.weight': torch.zeros(32, 128),
        'head.layers.0.bias': torch.zeros(32),
    }
    torch.save(head, checkpoint)
    with pytest.raises(ValueError, match='lacks 1 of .* its LLM, e.g. lm_h'):
        export_huggingface(nano_cfg, checkpoint, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['head.pth']


def test_checkpoint_of_another_llm_is_refused(
    other_llm_dir, nano_cfg, tmp_path
):
    nano_cfg.model.decoder.arch = None
    with pytest.raises(ValueError, match='trained against an LLM'):
        export_huggingface(
            nano_cfg,
            SHIPPED / 'minigpt4_nano.pth',
            tmp_path / 'out',
            llm=other_llm_dir,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(prompt_template='llama2'), 'trained with prompt_template=.vicu'),
        (dict(data_preprocessor=PIXELS), 'images of another normalisation'),
    ],
)
def test_checkpoint_of_other_settings_is_refused(
    nano_cfg, nano_model, tmp_path, changes, message
):
    torch.save(nano_model.state_dict(), tmp_path / 'trained.pth')
    export_huggingface(nano_cfg, tmp_path / 'trained.pth', tmp_path / 'hf')
    nano_cfg.model.update(changes)
    with pytest.raises(ValueError, match=message):
        export_huggingface(
            nano_cfg, tmp_path / 'trained.pth', tmp_path / 'out'
        )
    assert not (tmp_path / 'out').exists()


def test_existing_folder_is_not_changed(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('years')
    with pytest.raises(FileExistsError, match='not empty'):
        export_huggingface(NANO, None, tmp_path / 'out')
    assert [path.name for path in tmp_path.rglob('*')] == ['out', 'thesis.txt']


def test_few_tensors_are_in_memory_at_the_same_time(monkeypatch, tmp_path):
    counts = dict(alive=0, peak=0)

    def count_freed():
        counts['alive'] -= 1

    def counting(source, **settings):
        def wrap(lazy):
            def read():
                tensor = lazy.read().clone()
                counts['alive'] += 1
                counts['peak'] = max(counts['peak'], counts['alive'])
                weakref.finalize(tensor, count_freed)
                return tensor

            return LazyTensor(lazy.shape, lazy.dtype, read)

        return {
            name: wrap(lazy)
            for name, lazy in open_tensors(source, **settings).items()
        }

    for module in (
        'convert.export_sources',
        'convert.huggingface_import',
        'llm.fingerprint',
    ):
        monkeypatch.setattr(f'minigpt4.{module}.open_tensors', counting)
    export_huggingface(NANO, None, tmp_path / 'hf')
    import_huggingface(tmp_path / 'hf', tmp_path / 'back')
    # the two of the head for its pickle, the fingerprint, and two of others
    assert 0 < counts['peak'] <= 5, counts
