# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The model of the benchmarks: small, with the proportions of the real one.

Weights are drawn from a seed and written once; each side of a benchmark loads
the same files. A peer's environment imports this module too, so ``minigpt4``
is only imported where our own model is built.
"""

import functools
import json
import os
import random
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

TOKENIZER_VARIABLE = 'MINIGPT4_LLAMA_TOKENIZER'
# ViT, Q-Former and LLM have about the same shares of the FLOPs as in the 7B
MINI_PROP = dict(
    img_size=224,
    patch_size=14,
    vision=dict(width=512, depth=10, num_heads=8, mlp_width=2240),
    num_queries=32,
    q_former=dict(width=256, depth=6, num_heads=4, mlp_width=1024),
    llm=dict(
        hidden_size=1024,
        intermediate_size=2752,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=4010,
    ),
)
# half as wide and deep, for repetitions of thousands of tokens
SMALL = MINI_PROP | dict(
    vision=dict(width=256, depth=5, num_heads=4, mlp_width=1120),
    q_former=dict(width=128, depth=3, num_heads=2, mlp_width=512),
    llm=dict(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=4010,
    ),
)
# for trying a code path
TINY = dict(
    img_size=28,
    patch_size=14,
    vision=dict(width=32, depth=2, num_heads=2, mlp_width=48),
    num_queries=4,
    q_former=dict(width=24, depth=2, num_heads=2, mlp_width=32),
    llm=dict(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=768,
    ),
)
# an LLM with little arithmetic and a tiny vision encoder, to measure the host
HOST = TINY | dict(
    llm=dict(
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=32,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=4010,
    ),
)
# EVA-ViT-g, BLIP-2's Q-Former and Vicuna-7B
VICUNA_7B = dict(
    img_size=224,
    patch_size=14,
    vision=dict(width=1408, depth=39, num_heads=16, mlp_width=6144),
    num_queries=32,
    q_former=dict(width=768, depth=12, num_heads=12, mlp_width=3072),
    llm=dict(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=32000,
    ),
)
SIZES = {
    'mini-prop': MINI_PROP,
    'small': SMALL,
    'tiny': TINY,
    'host': HOST,
    'vicuna-7b': VICUNA_7B,
}
LLAMA = dict(
    model_type='llama',
    architectures=['LlamaForCausalLM'],
    max_position_embeddings=2048,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    bos_token_id=1,
    eos_token_id=2,
    tie_word_embeddings=False,
    torch_dtype='float32',
)
# the four of stage 2 (paper 3.2), without the image in front
ALIGNMENT_PROMPTS = (
    'Describe this image in detail.',
    'Take a look at this image and describe what you notice.',
    'Please provide a detailed description of the picture.',
    'Could you describe the contents of this image for me?',
)
WORDS = (
    'a the small large old young man woman dog cat bird horse boat car '
    'house tree river mountain street market table window flower garden '
    'standing sitting running looking holding near behind under over with '
    'red blue green white black bright dark quiet busy morning evening '
    'sky water stone wooden glass light shadow crowd field bridge'
).split()


class Folded:
    """A tokenizer whose ids are folded into a smaller vocabulary.

    The number of tokens stays the same; their meaning does not matter for a
    random LLM.
    """

    def __init__(self, tokenizer, vocab_size: int) -> None:
        self.__dict__.update(tokenizer=tokenizer, vocab_size=vocab_size)

    def __getattr__(self, name: str):
        return getattr(self.tokenizer, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.tokenizer, name, value)

    def _fold(self, ids):
        if isinstance(ids, Tensor):
            size = self.vocab_size - 3  # 0, 1 and 2 are control tokens
            folded = torch.where(ids < 3, ids, (ids - 3) % size + 3)
            return folded.to(ids.dtype)
        if isinstance(ids, list):
            return [self._fold(i) for i in ids]
        return ids if ids < 3 else (ids - 3) % (self.vocab_size - 3) + 3

    def __call__(self, *args, **kwargs):
        out = self.tokenizer(*args, **kwargs)
        out['input_ids'] = self._fold(out['input_ids'])
        return out

    def encode(self, *args, **kwargs) -> list[int]:
        """Encode a text like the tokenizer."""
        return self._fold(self.tokenizer.encode(*args, **kwargs))


def _draw(name: str, shape: tuple[int, ...], generator) -> Tensor:
    values = torch.randn(shape, generator=generator, device=generator.device)
    values.mul_(0.02)
    if len(shape) == 1 and name.endswith('weight'):
        values += 1  # a norm's
    return values


def _draw_all(module, seed: int, dtype, device: str) -> dict[str, Tensor]:
    """Weights for a module on the meta device."""
    generator = torch.Generator(device).manual_seed(seed)
    return {
        name: _draw(name, tuple(tensor.shape), generator).to('cpu', dtype)
        for name, tensor in module.state_dict().items()
    }


def _save_tokenizer(folder: Path) -> None:
    """Save LLaMA's tokenizer if the variable names it, else the nano one."""
    from transformers import AutoTokenizer

    import minigpt4

    source = Path(minigpt4.__file__).parent / 'nano' / 'weights' / 'llm'
    given = os.environ.get(TOKENIZER_VARIABLE)
    with tempfile.TemporaryDirectory() as temporary:
        if given:
            source = Path(temporary)
            (source / 'tokenizer.model').write_bytes(Path(given).read_bytes())
            (source / 'tokenizer_config.json').write_text(
                '{"tokenizer_class": "LlamaTokenizer"}'
            )
            (source / 'config.json').write_text('{"model_type": "llama"}')
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    if given:  # for a peer whose transformers reads SentencePiece's file
        (folder / 'tokenizer.model').write_bytes(Path(given).read_bytes())
    file = folder / 'tokenizer_config.json'
    config = json.loads(file.read_text())
    if isinstance(config.get('extra_special_tokens'), list):
        # transformers 5 writes a redundant list, 4.49 expects a dict
        del config['extra_special_tokens']
        file.write_text(json.dumps(config))


def save(
    folder: Path,
    size: str = 'mini-prop',
    dtype: torch.dtype = torch.float32,
    device: str = 'cpu',
) -> Path:
    """Write the weights: ``llm/`` and ``{backbone,neck,head}.safetensors``.

    Args:
        folder: The folder to write.
        size: A name of ``SIZES``.
        dtype: Of the LLM and the backbone; neck and head are fp32.
        device: Device that draws them.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from minigpt4.registry import MODELS

    sizes = SIZES[size]
    llm = folder / 'llm'
    llm.mkdir(parents=True)
    (folder / 'size').write_text(size)
    (llm / 'config.json').write_text(
        json.dumps(
            LLAMA
            | sizes['llm']
            | dict(torch_dtype=str(dtype).removeprefix('torch.'))
        )
    )
    _save_tokenizer(llm)
    with torch.device('meta'):
        parts = {
            name: MODELS.build(config)
            for name, config in part_configs(folder, size, False).items()
        }
        parts['llm'] = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(llm)
        )
    for seed, (name, part) in enumerate(parts.items()):
        kind = dtype if name in ('llm', 'backbone') else torch.float32
        tensors = _draw_all(part, seed, kind, device)
        if name == 'llm':
            save_file(tensors, llm / 'model.safetensors', {'format': 'pt'})
        else:
            save_file(tensors, folder / f'{name}.safetensors')
    return folder


@functools.cache
def _kept(size: str) -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix='minigpt4-bench-')


def weights(size: str = 'mini-prop') -> Path:
    """Return the folder of the weights, written once per run."""
    folder = Path(_kept(size).name)
    return folder if (folder / 'llm').exists() else save(folder, size)


def part_configs(folder: Path, size: str, load: bool = True) -> dict:
    """Configs of backbone, neck and head (widths of the head filled in)."""
    sizes = SIZES[size]
    files = {
        name: str(folder / f'{name}.safetensors') if load else None
        for name in ('backbone', 'neck')
    }
    return dict(
        backbone=dict(
            type='minigpt4.EVAViT',
            arch=sizes['vision'],
            img_size=sizes['img_size'],
            patch_size=sizes['patch_size'],
            checkpoint=files['backbone'],
        ),
        neck=dict(
            type='minigpt4.QFormer',
            in_channels=sizes['vision']['width'],
            num_queries=sizes['num_queries'],
            **sizes['q_former'],
            checkpoint=files['neck'],
        ),
        head=dict(
            type='minigpt4.LinearProjector',
            in_channels=sizes['q_former']['width'],
            out_channels=sizes['llm']['hidden_size'],
        ),
    )


def blip2_config(folder: Path):
    """The config of transformers' BLIP-2 for the weights of a folder."""
    from transformers import Blip2Config

    sizes = SIZES[(folder / 'size').read_text()]
    vision, q_former = sizes['vision'], sizes['q_former']
    return Blip2Config(
        vision_config=dict(
            hidden_size=vision['width'],
            intermediate_size=vision['mlp_width'],
            num_hidden_layers=vision['depth'],
            num_attention_heads=vision['num_heads'],
            image_size=sizes['img_size'],
            patch_size=sizes['patch_size'],
        ),
        qformer_config=dict(
            hidden_size=q_former['width'],
            intermediate_size=q_former['mlp_width'],
            num_hidden_layers=q_former['depth'],
            num_attention_heads=q_former['num_heads'],
            encoder_hidden_size=vision['width'],
        ),
        text_config=LLAMA | sizes['llm'],
        num_query_tokens=sizes['num_queries'],
        image_token_index=0,  # no word of a text
    )


def build(
    folder: Path,
    cached: bool = False,
    linear_dtype: str | None = None,
    **settings,
):
    """Our model with the weights of a folder.

    Args:
        folder: What :func:`save` wrote.
        cached: Whether its inputs are cached features.
        linear_dtype: That of backbone, neck and decoder.
        settings: Of :class:`MiniGPT4`.
    """
    from safetensors.torch import load_file

    from minigpt4.registry import MODELS

    size = (folder / 'size').read_text()
    sizes = SIZES[size]
    parts = part_configs(folder, size)
    parts['backbone']['linear_dtype'] = linear_dtype
    parts['neck']['linear_dtype'] = linear_dtype
    if cached:
        parts['backbone'] = None
        parts['neck'] = dict(
            type='minigpt4.CachedQueries',
            num_tokens=sizes['num_queries'],
            channels=sizes['q_former']['width'],
        )
    model = MODELS.build(
        dict(
            type='minigpt4.MiniGPT4',
            **parts,
            decoder=dict(
                type='minigpt4.LLMDecoder',
                name_or_path=str(folder / 'llm'),
                linear_dtype=linear_dtype,
            ),
            **settings,
        )
    )
    model.head.load_state_dict(load_file(folder / 'head.safetensors'))
    model.decoder.tokenizer = Folded(
        model.decoder.tokenizer, model.decoder.vocab_size
    )
    return model


def build_random(size: str, device: str, folder: Path, **settings):
    """Build our model of any size with random weights on a device.

    Args:
        size: A name of ``SIZES``.
        device: Device of the model.
        folder: Weights of the size ``tiny``, for the tokenizer.
        settings: Of :class:`MiniGPT4`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from minigpt4 import compat
    from minigpt4.registry import MODELS
    from minigpt4.weights.load_frozen import torch_dtype

    sizes = SIZES[size]
    parts = part_configs(folder, size, load=False)
    model = build(folder, **settings)
    with torch.device(device):
        for name in ('backbone', 'neck', 'head'):
            setattr(model, name, MODELS.build(parts[name]))
        model.decoder.llm = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(
                **{k: v for k, v in LLAMA.items() if k != 'torch_dtype'},
                **sizes['llm'],
            ),
            attn_implementation='sdpa',
            **compat.dtype_argument(torch_dtype('auto')),
        )
    model.decoder.llm.requires_grad_(False).eval()
    return model.to(device)


def images(count: int, size: str) -> Tensor:
    """``(count, 3, H, W)`` uint8."""
    generator = torch.Generator().manual_seed(0)
    side = SIZES[size]['img_size']
    shape = (count, 3, side, side)
    return torch.randint(256, shape, generator=generator).byte()


def captions(count: int, shortest: int = 6, longest: int = 14) -> list[str]:
    """Draw captions with evenly spread numbers of words."""
    draw = random.Random(0)
    step = (longest - shortest) / max(count - 1, 1)
    lengths = [round(shortest + i * step) for i in range(count)]
    draw.shuffle(lengths)
    return [' '.join(draw.choices(WORDS, k=length)) for length in lengths]


def samples(questions: list[str], answers: list[str], images: Tensor):
    """Build samples like our data sets: one image or its features each."""
    from mmengine.structures import BaseDataElement

    from minigpt4.prompts import Turn

    return [
        BaseDataElement(images=[image], turns=[Turn(question, answer)])
        for question, answer, image in zip(
            questions, answers, images, strict=True
        )
    ]
