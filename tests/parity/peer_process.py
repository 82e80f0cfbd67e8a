# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The peers' side of a comparison; runs in the peer's environment.

    python tests/parity/peer_process.py {blip2,mmpretrain} FOLDER

reads ``FOLDER/{settings.json,weights.safetensors,inputs.safetensors,llm/}``,
which :mod:`make_references` wrote, and writes ``FOLDER/outputs.safetensors``.
It imports nothing of this package.
"""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

os.environ['HF_HUB_OFFLINE'] = '1'


def record(outputs: dict, name: str, pick=lambda args, out: out):
    """A forward hook that stores the result of ``pick`` once."""

    def hook(module, args, kwargs, out):
        if name not in outputs:
            outputs[name] = pick((args, kwargs), out).detach()

    return hook


def build_blip2(sizes: dict, tensors: dict[str, Tensor], image_token: int):
    """A ``Blip2ForConditionalGeneration`` with a LLaMA as text model.

    Its ``post_layernorm`` gets torch's eps, 1e-5, as LAVIS has it; BLIP-2 of
    transformers reads ``vision_config.layer_norm_eps`` (1e-6) there too.
    """
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    vision, q_former = sizes['vision'], sizes['q_former']
    config = Blip2Config(
        vision_config=dict(
            hidden_size=vision['width'],
            intermediate_size=vision['mlp_width'],
            num_hidden_layers=vision['depth'],
            num_attention_heads=vision['num_heads'],
            image_size=sizes['img_size'],
            patch_size=sizes['patch_size'],
            hidden_act='gelu',
            layer_norm_eps=1e-6,
            qkv_bias=True,
        ),
        qformer_config=dict(
            hidden_size=q_former['width'],
            num_hidden_layers=q_former['depth'],
            num_attention_heads=q_former['num_heads'],
            intermediate_size=q_former['mlp_width'],
            encoder_hidden_size=vision['width'],
            cross_attention_frequency=2,
            layer_norm_eps=1e-12,
        ),
        text_config=dict(sizes['llm']),
        num_query_tokens=sizes['num_queries'],
        image_token_index=image_token,
    )
    model = Blip2ForConditionalGeneration(config).float()
    model.load_state_dict(tensors)  # strict: no name is missing
    model.vision_model.post_layernorm.eps = 1e-5
    return model.eval()


def blip2(model, inputs: dict[str, Tensor], new_tokens: int) -> dict:
    """The outputs of BLIP-2; ``ids`` are of the left-padded prompts."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        model.vision_model.post_layernorm.register_forward_hook(
            record(outputs, 'features', lambda given, out: given[0][0]),
            with_kwargs=True,
        ),
        model.qformer.register_forward_hook(
            record(outputs, 'queries', lambda given, out: out[0]),
            with_kwargs=True,
        ),
        model.language_projection.register_forward_hook(
            record(outputs, 'image_tokens'), with_kwargs=True
        ),
        model.language_model.register_forward_hook(
            record(
                outputs,
                'embeddings',
                lambda given, out: given[1]['inputs_embeds'],
            ),
            with_kwargs=True,
        ),
    ]
    result = model(
        **{
            name: inputs[name]
            for name in (
                'pixel_values',
                'input_ids',
                'attention_mask',
                'labels',
            )
        }
    )
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    result.loss.backward()
    ids = model.generate(
        pixel_values=inputs['pixel_values'],
        input_ids=inputs['prompt_ids'],
        attention_mask=inputs['prompt_mask'],
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
    )
    return dict(
        **outputs,
        logits=result.logits.detach(),
        loss=result.loss.detach(),
        weight_grad=model.language_projection.weight.grad,
        bias_grad=model.language_projection.bias.grad,
        # transformers returns the prompt first
        ids=ids[:, inputs['prompt_ids'].shape[1] :].clone(),
    )


def build_mmpretrain(
    sizes: dict, tensors: dict[str, Tensor], folder: Path, settings: dict
):
    """MMPretrain's own ``MiniGPT4``, with its shipped config's arguments.

    The config's ``bert-base-uncased``, of which MMPretrain reads only the
    sizes, is a folder written here.
    """
    import mmpretrain.models  # noqa: F401  (registers)
    from mmpretrain.registry import MODELS

    vision, q_former = sizes['vision'], sizes['q_former']
    bert = folder / 'bert'
    bert.mkdir()
    (bert / 'config.json').write_text(
        json.dumps(
            dict(
                model_type='bert',
                hidden_size=q_former['width'],
                num_hidden_layers=q_former['depth'],
                num_attention_heads=q_former['num_heads'],
                intermediate_size=q_former['mlp_width'],
                layer_norm_eps=1e-12,
                vocab_size=8,
            )
        )
    )
    model = MODELS.build(
        dict(
            type='MiniGPT4',
            vision_encoder=dict(
                type='BEiTViT',
                arch=dict(
                    embed_dims=vision['width'],
                    num_layers=vision['depth'],
                    num_heads=vision['num_heads'],
                    feedforward_channels=vision['mlp_width'],
                ),
                img_size=sizes['img_size'],
                patch_size=sizes['patch_size'],
                layer_scale_init_value=0.0,
                frozen_stages=vision['depth'],
                use_abs_pos_emb=True,
                use_rel_pos_bias=False,
                final_norm=False,
                use_shared_rel_pos_bias=False,
                out_type='raw',
            ),
            q_former_model=dict(
                type='Qformer',
                model_style=str(bert),
                vision_model_width=vision['width'],
                add_cross_attention=True,
                cross_attention_freq=2,
                num_query_token=sizes['num_queries'],
            ),
            num_query_token=sizes['num_queries'],
            lang_encoder=dict(
                type='AutoModelForCausalLM', name_or_path=str(folder / 'llm')
            ),
            tokenizer=dict(
                type='LlamaTokenizer', name_or_path=str(folder / 'llm')
            ),
            raw_prompts=dict(en=[settings['question']]),
            generation_cfg=dict(
                do_sample=False,
                top_p=None,
                temperature=None,
                repetition_penalty=1.0,
                max_new_tokens=settings['new_tokens'],
            ),
        )
    )
    # its load hook makes every frozen tensor optional: compare names here
    buffers = {'q_former.bert.embeddings.position_ids'}
    odd = set(model.state_dict()) ^ set(tensors) ^ buffers
    if odd:
        raise SystemExit(f'names that only one side has: {sorted(odd)}')
    model.load_state_dict(tensors, strict=False)
    # its frozen Q-Former otherwise uses dropout
    return model.float().eval()


def mmpretrain(model, inputs: dict[str, Tensor], settings: dict) -> dict:
    """The outputs of MMPretrain's ``loss`` and ``predict`` for one sample.

    Only one sample, because it pads several prompts inside the sequence.
    """
    from mmpretrain.structures import DataSample

    outputs: dict[str, Tensor] = {}
    for part, name, pick in (
        (model.vision_encoder, 'features', lambda given, out: out[0]),
        (model.q_former.bert, 'queries', lambda given, out: out[0]),
        (model.llama_proj, 'image_tokens', lambda given, out: out),
        (
            model.llama_model,
            'embeddings',
            lambda given, out: given[1]['inputs_embeds'],
        ),
        (model.llama_model, 'logits', lambda given, out: out.logits),
    ):
        part.register_forward_hook(
            record(outputs, name, pick), with_kwargs=True
        )
    sample = DataSample()
    sample.set_field('en', 'lang')
    chat = f'###Ask: {settings["question"]} ###Answer: {settings["answer"]}'
    sample.set_field(chat, 'chat_content')
    images = inputs['pixel_values']
    loss = model(images, [sample], mode='loss')['loss']
    loss.backward()
    outputs.update(
        loss=loss.detach(),
        weight_grad=model.llama_proj.weight.grad.clone(),
        bias_grad=model.llama_proj.bias.grad.clone(),
    )
    generate = model.llama_model.generate

    def keep_ids(*args, **kwargs):
        outputs['ids'] = generate(*args, **kwargs)
        return outputs['ids']

    model.llama_model.generate = keep_ids
    model(images, [sample], mode='predict')
    return outputs


def main() -> None:
    """Run one peer on the folder's inputs."""
    peer, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    settings = json.loads((folder / 'settings.json').read_text())
    sizes = settings['sizes']
    tensors = load_file(folder / 'weights.safetensors')
    inputs = load_file(folder / 'inputs.safetensors')
    versions = ['transformers', 'torch']
    if peer == 'blip2':
        model = build_blip2(sizes, tensors, settings['image_token'])
        outputs = blip2(model, inputs, settings['new_tokens'])
    else:
        model = build_mmpretrain(sizes, tensors, folder, settings)
        outputs = mmpretrain(model, inputs, settings)
        versions = ['mmpretrain', 'mmengine', *versions]
    save_file(
        {name: tensor.contiguous() for name, tensor in outputs.items()},
        folder / 'outputs.safetensors',
        metadata=dict(
            peer=', '.join(
                f'{name} {importlib.metadata.version(name)}'
                for name in versions
            )
        ),
    )


if __name__ == '__main__':
    main()
