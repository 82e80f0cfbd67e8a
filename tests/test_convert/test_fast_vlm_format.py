# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""FastVLM of transformers gives the answers of a small model."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tests.test_convert.conftest import CHAT_LLMS
from transformers import AutoModelForImageTextToText, AutoProcessor

from minigpt4.captioning.inferencer import get_model, make_sample
from minigpt4.convert.folder_extras import LLM_FOLDER
from minigpt4.convert.huggingface_export import export_huggingface
from minigpt4.convert.huggingface_import import import_huggingface
from minigpt4.weights.read import open_tensors
from minigpt4.weights.shipped import shipped_or_local

transformers = pytest.importorskip('transformers')
if not hasattr(transformers, 'FastVlmForConditionalGeneration'):
    pytest.skip('this transformers has no FastVLM', allow_module_level=True)

ROOT = Path(__file__).parents[2]
SCENE = ROOT / 'demo/scene.png'
SMALL_CONFIG = ROOT / 'configs/minigpt4/minigpt_4_small_caption.py'
QUESTION = 'what is this'


def ask_both(cfg, head, folder):
    """Return ids and last logits of transformers and of ours."""
    theirs, report = AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert type(theirs).__name__ == 'FastVlmForConditionalGeneration'
    assert not any(report.values()), report
    processor = AutoProcessor.from_pretrained(folder, backend='pil')
    message = dict(
        role='user',
        content=[
            dict(type='image', path=str(SCENE)),
            dict(type='text', text=QUESTION),
        ],
    )
    inputs = processor.apply_chat_template(
        [message],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors='pt',
    )
    with torch.no_grad():
        logits = theirs(**inputs).logits[0, -1]
    found = theirs.generate(**inputs)[0, inputs['input_ids'].shape[1] :]
    ours = get_model(cfg, pretrained=False, device='cpu')
    ours.load_state_dict(head)
    sample = make_sample([SCENE], QUESTION, ours.backbone.img_size)
    batch = ours.data_preprocessor(ours.collator(False)([sample]), False)
    with torch.no_grad():
        expected = ours(**batch, mode='tensor')[0, -1]
    (answer,) = ours.generate([sample])
    return (found.tolist(), logits), (answer.token_ids, expected)


@pytest.mark.parametrize('family', sorted(CHAT_LLMS))
def test_answers_equal_ours(small_cfg, chat_llm, family, save_head, tmp_path):
    small_cfg.model.prompt_template = 'chat'
    small_cfg.model.decoder.name_or_path = str(chat_llm(family))
    head = save_head(tmp_path / 'head.pth', 32)
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    (ids, logits), (expected, expected_logits) = ask_both(
        small_cfg, head, tmp_path / 'hf'
    )
    assert len(expected) > 4
    assert ids == expected
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)


def test_pipeline(small_cfg, chat_llm, save_head, tmp_path):
    small_cfg.model.prompt_template = 'chat'
    small_cfg.model.decoder.name_or_path = str(chat_llm('smollm2'))
    head = save_head(tmp_path / 'head.pth', 32)
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    pipeline = transformers.pipeline(
        'image-text-to-text',
        model=str(tmp_path / 'hf'),
        dtype=torch.float32,
        device='cpu',
    )
    message = dict(
        role='user',
        content=[
            dict(type='image', path=str(SCENE)),
            dict(type='text', text=QUESTION),
        ],
    )
    (answer,) = pipeline(text=[message], return_full_text=False)
    (ids, _), _ = ask_both(small_cfg, head, tmp_path / 'hf')
    decoded = pipeline.tokenizer.decode(ids, skip_special_tokens=True)
    assert answer['generated_text'].strip() == decoded.strip() != ''


def test_head_of_two_layers(small_cfg, save_head, tmp_path):
    small_cfg.model.head.num_layers = 2
    head = save_head(tmp_path / 'head.pth', 32, layers=2)
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    (ids, _), (expected, _) = ask_both(small_cfg, head, tmp_path / 'hf')
    assert ids == expected


@pytest.mark.parametrize('family', ['smollm2', 'llama_3'])  # tied or not
def test_learned_prefix(small_cfg, chat_llm, save_head, tmp_path, family):
    """It becomes special tokens that the LLM does not generate."""
    llm = chat_llm(family)
    small_cfg.model.prompt_template = 'chat'
    small_cfg.model.decoder.name_or_path = str(llm)
    small_cfg.model.head.num_prefix_tokens = 3
    head = save_head(tmp_path / 'head.pth', 32)
    # so large that its tokens have the highest scores of tied embeddings
    head['head.prefix'] = torch.randn(3, 32) / 20
    torch.save(head, tmp_path / 'head.pth')
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    (ids, logits), (expected, expected_logits) = ask_both(
        small_cfg, head, tmp_path / 'hf'
    )
    assert len(expected) > 4
    assert ids == expected
    assert len(logits) == len(expected_logits) + 3
    torch.testing.assert_close(
        logits[:-3], expected_logits, atol=1e-4, rtol=1e-4
    )

    import_huggingface(tmp_path / 'hf', tmp_path / 'back')
    found = open_tensors(tmp_path / 'back' / 'minigpt4.pth')
    for name, tensor in head.items():
        assert torch.equal(found[name].read(), tensor), name
    back = open_tensors(tmp_path / 'back' / LLM_FOLDER)
    for name, tensor in open_tensors(llm).items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name].read(), tensor.read()), name


@pytest.mark.parametrize(
    ('with_mean', 'position_bias', 'prefix'),
    [
        (True, False, 0),
        (False, True, 0),
        (True, True, 0),
        (True, True, 3),
    ],
)
def test_mean_and_position_biases(
    small_cfg,
    lite_file,
    chat_llm,
    save_head,
    tmp_path,
    with_mean,
    position_bias,
    prefix,
):
    llm = chat_llm('smollm2')
    small_cfg.model.prompt_template = 'chat'
    small_cfg.model.decoder.name_or_path = str(llm)
    small_cfg.model.neck.with_mean = with_mean
    small_cfg.model.head.update(
        position_bias=position_bias, num_prefix_tokens=prefix
    )
    head = save_head(
        tmp_path / 'head.pth',
        32,
        channels=2560 if with_mean else 1280,
        tokens=4 if position_bias else 0,
    )
    if prefix:
        head['head.prefix'] = torch.randn(prefix, 32) / 20
        torch.save(head, tmp_path / 'head.pth')
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    (ids, logits), (expected, expected_logits) = ask_both(
        small_cfg, head, tmp_path / 'hf'
    )
    assert len(expected) > 4
    assert ids == expected
    torch.testing.assert_close(
        logits[: len(logits) - prefix],
        expected_logits,
        atol=1e-4,
        rtol=1e-4,
    )

    import_huggingface(tmp_path / 'hf', tmp_path / 'back')
    for file, source in (
        ('minigpt4.pth', tmp_path / 'head.pth'),
        ('efficientnet_lite.safetensors', lite_file),
        (LLM_FOLDER, llm),
    ):
        back = open_tensors(tmp_path / 'back' / file)
        for name, tensor in open_tensors(source).items():
            if not name.endswith('num_batches_tracked'):
                assert torch.equal(back[name].read(), tensor.read()), name


def test_position_biases_change_the_answer(small_cfg, save_head, tmp_path):
    """Without them the comparison of answers would show nothing."""
    small_cfg.model.head.position_bias = True
    head = save_head(tmp_path / 'head.pth', 32, tokens=4)
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    (_, logits), _ = ask_both(small_cfg, head, tmp_path / 'hf')
    head['head.position_bias'] = head['head.position_bias'].flip(0)
    torch.save(head, tmp_path / 'head.pth')
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'flipped')
    (_, flipped), _ = ask_both(small_cfg, head, tmp_path / 'flipped')
    assert (flipped - logits).abs().max() > 0.01


def test_dtype(small_cfg, save_head, tmp_path):
    save_head(tmp_path / 'head.pth', 32)
    export_huggingface(
        small_cfg, tmp_path / 'head.pth', tmp_path / 'hf', dtype='bfloat16'
    )
    types = {t.dtype for t in open_tensors(tmp_path / 'hf').values()}
    assert types == {torch.bfloat16, torch.int64}
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / 'hf')
    assert model.dtype == torch.bfloat16
    features = model.get_image_features(
        torch.zeros(1, 3, 128, 128, dtype=torch.bfloat16)
    ).pooler_output
    assert features[0].shape == (4, 32)


@pytest.mark.parametrize(
    ('part', 'settings', 'message'),
    [
        ('head', dict(num_layers=3), 'the head has 3 layers'),
        (
            'head',
            dict(num_layers=2, position_bias=True),
            'position_bias=True and num_layers=2',
        ),
        ('neck', dict(grid=3), '4 x 4 patches to 3 x 3'),
        ('neck', dict(keep_global=True), 'keep_global=True'),
    ],
)
def test_unsupported_models_are_refused(
    small_cfg, part, settings, message, tmp_path
):
    small_cfg.model[part].update(settings)
    with pytest.raises(ValueError, match=message):
        export_huggingface(small_cfg, 'none.pth', tmp_path / 'out')
    assert not list(tmp_path.iterdir())


def test_llm_with_a_bias_in_its_output_layer_is_refused(
    small_cfg, make_llm, tiny_tokenizer, tmp_path
):
    """FastVLM has no place for it."""
    llm = make_llm(
        model_type='phi',
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=len(tiny_tokenizer),
    )
    small_cfg.model.decoder.name_or_path = str(llm)
    with pytest.raises(ValueError, match='output layer of the LLM has a'):
        export_huggingface(small_cfg, 'none.pth', tmp_path / 'out')
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_shipped_projection(small_cache, tmp_path):
    """The small model itself, without the penalty, which differs there."""
    cfg = Config.fromfile(SMALL_CONFIG)
    cfg.model.generation = dict(max_new_tokens=40)
    checkpoint = shipped_or_local('small/minigpt4_small.pth')
    export_huggingface(cfg, checkpoint, tmp_path / 'hf')
    head = torch.load(checkpoint, weights_only=True)['state_dict']
    (ids, logits), (expected, expected_logits) = ask_both(
        cfg, head, tmp_path / 'hf'
    )
    assert len(expected) > 10
    assert ids == expected
    torch.testing.assert_close(
        logits[:-8], expected_logits, atol=1e-3, rtol=1e-3
    )
