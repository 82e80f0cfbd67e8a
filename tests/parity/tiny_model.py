# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tiny MiniGPT4 that parity is shown on: weights and inputs from seeds.

Neither is stored. Every weight is drawn by its name with ``torch.rand`` on
the CPU: a Mersenne Twister's integers times a power of two, which gives the
same bits on every machine and in every torch of this project's range
(``randn`` may not: its logarithm depends on the processor). :func:`digest`
shows that it held.
"""

import hashlib
import json
import math
import shutil
import zlib
from pathlib import Path

import torch
from mmengine.structures import BaseDataElement
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minigpt4.models import MiniGPT4
from minigpt4.prompts import IMAGE_SLOT, PromptTemplate, Turn
from minigpt4.registry import MODELS
from minigpt4.weights.layouts import COMPONENTS, to_layout
from minigpt4.weights.read import LazyTensor

SIZES = dict(
    img_size=28,
    patch_size=14,
    vision=dict(width=32, depth=3, num_heads=2, mlp_width=48),
    num_queries=3,
    q_former=dict(width=24, depth=3, num_heads=4, mlp_width=32),
    llm=dict(
        model_type='llama',
        architectures=['LlamaForCausalLM'],
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=768,
        max_position_embeddings=128,
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        torch_dtype='float32',
    ),
)
IMAGE_TOKEN = 5  # LLaMA's byte 0x02, which no text here holds
NEW_TOKENS = 8
# questions with answers; rows of a batch have different lengths
BATCHES = dict(
    conversation=(
        (
            '<Img><ImageHere></Img> describe this image.',
            'a large red circle above a small blue square.',
        ),
        ('what is above the <Img><ImageHere></Img> square?', 'a circle.'),
    ),
    stage_1=(
        ('<ImageHere>', 'a red circle'),
        ('<ImageHere>', 'a large blue square above a small green circle'),
    ),
)
# MMPretrain pads several prompts inside the sequence: it is given one
BATCHES['single'] = BATCHES['conversation'][:1]
# MMPretrain 1.2.0 splits its chats at '###Answer: '
MMPRETRAIN_TEMPLATE = PromptTemplate(
    'mmpretrain',
    '###Ask: ',
    '###Ask: ',
    ' ###Answer: ',
    end='###',
    stop=('###',),
)


def draw(name: str, shape) -> Tensor:
    """A weight, so large that every bias, norm and GELU matters."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.rand(tuple(shape), generator=generator) - 0.5
    if values.ndim == 1 and name.endswith('weight'):
        return values + 1  # a norm's
    if values.ndim in (2, 4):
        return values * (4 / math.sqrt(values[0].numel()))
    return values


def draw_weights(module: nn.Module, prefix: str = '') -> dict[str, Tensor]:
    """Weights for a module, under the names of its state dict."""
    return {
        name: draw(prefix + name, tensor.shape)
        for name, tensor in module.state_dict().items()
    }


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over tensors in the order of their names."""
    total = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def save_llm(folder: Path) -> Path:
    """A LLaMA folder that transformers 4.49 and 5 both read.

    Its tokenizer is a file of its own: the stored outputs of the peers stay
    valid when the nano model is rebuilt.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    (folder / 'config.json').write_text(json.dumps(SIZES['llm']))
    for file in (Path(__file__).parent / 'tokenizer').iterdir():
        shutil.copy(file, folder)
    with torch.device('meta'):
        llm = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder)
        )
    save_file(
        draw_weights(llm, 'llm.'),
        folder / 'model.safetensors',
        metadata=dict(format='pt'),
    )
    return folder


def build(llm_folder: Path, template: 'str | PromptTemplate') -> MiniGPT4:
    """Our model with the drawn weights, in eval mode."""
    model = MODELS.build(
        dict(
            type=MiniGPT4,
            backbone=dict(
                type='minigpt4.EVAViT',
                arch=SIZES['vision'],
                img_size=SIZES['img_size'],
                patch_size=SIZES['patch_size'],
                dtype='float32',
            ),
            neck=dict(
                type='minigpt4.QFormer',
                in_channels=SIZES['vision']['width'],
                num_queries=SIZES['num_queries'],
                **SIZES['q_former'],
            ),
            head=dict(type='minigpt4.LinearProjector'),
            decoder=dict(
                type='minigpt4.LLMDecoder',
                name_or_path=str(llm_folder),
                dtype='float32',
            ),
            prompt_template=template,
        )
    )
    for name in COMPONENTS:
        part = getattr(model, name)
        part.load_state_dict(draw_weights(part, f'{name}.'))
    return model.eval()


def samples(batch: str, answered: bool) -> list[BaseDataElement]:
    """The samples of a batch, with the answers or up to them."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, SIZES['img_size'], SIZES['img_size'])
    return [
        BaseDataElement(
            images=[torch.randint(256, shape, generator=generator).byte()],
            turns=[Turn(question, answer if answered else None)],
        )
        for question, answer in BATCHES[batch]
    ]


def peer_weights(
    model: MiniGPT4, layout: str, llm_folder: Path
) -> dict[str, Tensor]:
    """All weights under a peer's names, as ``minigpt4 convert`` names them."""
    out = {}
    for part in COMPONENTS:
        prefix = 'head.' if part == 'head' else ''
        ours = {
            prefix + name: LazyTensor.of(tensor)
            for name, tensor in getattr(model, part).state_dict().items()
        }
        # a whole model of MMPretrain has its backbone under this name
        whole = (
            'vision_encoder.'
            if (part, layout) == ('backbone', 'mmpretrain')
            else ''
        )
        for name, tensor in to_layout(part, layout, ours).items():
            out[whole + name] = tensor.read().contiguous()
    whole = dict(huggingface='language_model.', mmpretrain='llama_model.')
    llm = load_file(llm_folder / 'model.safetensors')
    return out | {whole[layout] + name: llm[name] for name in llm}


def peer_inputs(model: MiniGPT4, batch: str) -> dict[str, Tensor]:
    """Images, and token ids as Hugging Face wants them, padded on the left.

    ``input_ids``, ``attention_mask`` and ``labels`` hold the answers,
    ``prompt_ids`` and ``prompt_mask`` end before them.
    """
    collate = model.collator(training=False)
    images = model.data_preprocessor(collate(samples(batch, True)))['images']
    ids, mask, labels = _expand(map(collate.tokenize, samples(batch, True)))
    prompt = _expand(map(collate.tokenize, samples(batch, False)))
    return dict(
        pixel_values=images,
        input_ids=ids,
        attention_mask=mask,
        labels=labels,
        prompt_ids=prompt[0],
        prompt_mask=prompt[1],
    )


def _expand(rows) -> tuple[Tensor, ...]:
    lines = []
    for row in rows:
        ids, labels = [], []
        for token, learned in zip(row.ids, row.supervised, strict=True):
            assert token != IMAGE_TOKEN
            width = SIZES['num_queries'] if token == IMAGE_SLOT else 1
            ids += [IMAGE_TOKEN if token == IMAGE_SLOT else token] * width
            labels += [token if learned else -100] * width
        lines.append((ids, labels))
    length = max(len(ids) for ids, _ in lines)
    out = torch.tensor([0, 0, -100]).repeat(len(lines), length, 1)
    for line, (ids, labels) in zip(out, lines, strict=True):
        line[-len(ids) :, 0] = torch.tensor(ids)
        line[-len(ids) :, 1] = 1
        line[-len(ids) :, 2] = torch.tensor(labels)
    return tuple(x.contiguous() for x in out.unbind(-1))


def our_outputs(model: MiniGPT4, batch: str) -> dict[str, Tensor]:
    """Every stage of our forward pass, the loss, and greedy ids.

    Stages are those of the left-padded batch, with zeros at pads; loss and
    gradient those of the right-padded one that training sees.
    """
    left = model.collator(training=False)(samples(batch, True))
    (right,) = model.collator(training=True)(samples(batch, True))['pieces']
    left, right = map(model.data_preprocessor, (left, right))
    images, inputs = left['images'], left['inputs']
    real = inputs.attention_mask[..., None]
    with torch.no_grad():
        features = model.backbone(images)
        queries = model.neck(features)
        out = dict(
            features=features,
            queries=queries,
            image_tokens=model.head(queries),
            embeddings=model.embed_inputs(images, inputs) * real,
            logits=model(images, inputs, mode='tensor') * real,
        )
    model.zero_grad()
    loss = model(right['images'], right['inputs'], mode='loss')['loss']
    loss.backward()
    layer = model.head.layers[0]
    answers = model.generate(samples(batch, False), max_new_tokens=NEW_TOKENS)
    return dict(
        **out,
        loss=loss.detach(),
        weight_grad=layer.weight.grad.clone(),
        bias_grad=layer.bias.grad.clone(),
        ids=torch.tensor([answer.token_ids for answer in answers]),
    )


def peer_outputs(
    outputs: dict[str, Tensor], mask: Tensor
) -> dict[str, Tensor]:
    """A peer's outputs with zeros at pads, without each row's last place.

    A peer also feeds the last token, which has no target; ours does not.
    """
    return {
        name: (tensor * mask[..., None])[:, :-1].contiguous()
        if name in ('embeddings', 'logits')
        else tensor
        for name, tensor in outputs.items()
    }


def worst_differences(
    ours: dict[str, Tensor], theirs: dict[str, Tensor]
) -> dict[str, float]:
    """Worst absolute difference of each of their outputs from ours.

    Raises:
        ValueError: A shape differs, so that nothing can be compared.
    """
    worst = {}
    for name, tensor in sorted(theirs.items()):
        if tensor.shape != ours[name].shape:
            raise ValueError(
                f'{name} is {tuple(tensor.shape)} of the peer but '
                f'{tuple(ours[name].shape)} of ours.'
            )
        difference = (ours[name].double() - tensor.double()).abs()
        worst[name] = difference.max().item()
    return worst
