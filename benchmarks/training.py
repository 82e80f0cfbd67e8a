# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Training steps of both sides, on the same weights and samples.

The files s1_*.py and s2_*.py call ``row``; this file is also their worker.

    python benchmarks/training.py SIDE STAGE FOLDER
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import harness
import mini_prop
import numpy as np
import torch
from torch import Tensor

PEER_VARIABLE = 'MINIGPT4_PEER_PYTHON'
LEARNING_RATE = 1e-5
IMAGE = '<Img><ImageHere></Img>'
# stage: samples, template, most tokens of an answer, words of answers
STAGES = dict(
    stage1=(8, 'bare', 32, (6, 14)),
    stage2=(4, 'vicuna_v0', 160, (200, 200)),
)
SIDES = {
    'ours': {},
    'compiled': dict(compiled=True),
    'cached': dict(features='float32'),
    'cached fp16': dict(features='float16'),
    'cached compiled': dict(features='float32', compiled=True),
    'int8': dict(linear_dtype='int8'),
    'cached int8': dict(features='float32', linear_dtype='int8'),
}
# of 8-bit products, relative to those in fp32
INT8_TOLERANCE = dict(loss=5e-3, gradient=0.1, bias_gradient=0.1)
LAYOUTS = dict(mmpretrain='mmpretrain', blip2='huggingface')
PIXELS = 'pixels.npy'


def texts(stage: str) -> tuple[list[str], list[str]]:
    """Return the questions and answers of a stage."""
    count, _, _, (shortest, longest) = STAGES[stage]
    answers = mini_prop.captions(count, shortest, longest)
    if stage == 'stage1':
        return [''] * count, answers
    # one prompt for a batch, as the official code draws it
    return [f'{IMAGE} {mini_prop.ALIGNMENT_PROMPTS[1]}'] * count, answers


def ours(
    stage: str,
    folder: Path,
    features: str = '',
    template=None,
    compiled: bool = False,
    linear_dtype: str | None = None,
):
    """Build our step: read features if cached, collate, train."""
    from mmengine.optim import OptimWrapper

    from minigpt4.datasets.feature_cache import FeatureCache

    count, name, length, _ = STAGES[stage]
    model = mini_prop.build(
        folder,
        bool(features),
        linear_dtype,
        prompt_template=template or name,
        max_text_length=length,
        compile=compiled,
    )
    questions, answers = texts(stage)
    if features:
        cache = FeatureCache(folder / features)
    else:
        pixels = torch.from_numpy(np.load(folder / PIXELS))
    collate = model.collator(training=True)
    # only trained parameters, like TrainedParameters
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)
    wrapper = OptimWrapper(optimizer)

    def work() -> Tensor:
        inputs = (
            [cache[digest] for digest in _digests(count)]
            if features
            else pixels[:count]
        )
        batch = collate(mini_prop.samples(questions, answers, inputs))
        return model.train_step(batch, wrapper)['loss']

    return work, optimizer, model.head.layers[0]


def official(stage: str, folder: Path):
    """Build the official step."""
    from official import OfficialModel

    count, _, length, _ = STAGES[stage]
    end = '\n' if stage == 'stage1' else '###'
    model = OfficialModel(folder, end, length)
    questions, answers = texts(stage)
    prompts = [
        f'###Human: {question} ###Assistant: ' for question in questions
    ]
    if stage == 'stage1':
        prompts = []
    images = normalised(folder)[:count]
    optimizer = torch.optim.AdamW(model.llama_proj.parameters(), LEARNING_RATE)

    def work() -> Tensor:
        loss = model(images, prompts, answers)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return loss.detach()

    return work, optimizer, model.llama_proj


def mmpretrain(stage: str, folder: Path):
    """Build a step of MMPretrain's MiniGPT4, in its own environment."""
    sys.path.insert(0, str(harness.HERE.parent / 'tests' / 'parity'))
    import shutil

    from mmpretrain.structures import DataSample
    from peer_process import build_mmpretrain
    from safetensors.torch import load_file

    count, _, length, _ = STAGES[stage]
    questions, answers = texts(stage)
    shutil.rmtree(folder / 'bert', ignore_errors=True)
    sizes = mini_prop.SIZES[(folder / 'size').read_text()]
    model = build_mmpretrain(
        sizes,
        load_file(folder / 'mmpretrain.safetensors'),
        folder,
        dict(question=questions[0], new_tokens=1),
    )
    model.max_txt_len = length
    model.llama_tokenizer = mini_prop.Folded(
        model.llama_tokenizer, sizes['llm']['vocab_size']
    )
    images = normalised(folder)[:count]
    samples = []
    for question, answer in zip(questions, answers):
        sample = DataSample()
        sample.set_field('en', 'lang')
        chat = f'###Ask: {question} ###Answer: {answer}'
        sample.set_field(chat, 'chat_content')
        samples.append(sample)
    optimizer = torch.optim.AdamW(model.llama_proj.parameters(), LEARNING_RATE)

    def work() -> Tensor:
        loss = model(images, samples, mode='loss')['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return work, optimizer, model.llama_proj


def blip2(stage: str, folder: Path):
    """Build a step of transformers' BLIP-2 that trains its projection."""
    from transformers import Blip2ForConditionalGeneration

    from minigpt4.prompts import IMAGE_SLOT

    count, name, length, _ = STAGES[stage]
    # sequences of our collator, so that both sides have the same tokens
    row = (
        mini_prop.build(
            folder, True, prompt_template=name, max_text_length=length
        )
        .collator(training=True)
        .row
    )
    model = Blip2ForConditionalGeneration.from_pretrained(
        folder / 'huggingface'
    )
    model.requires_grad_(False)
    model.language_projection.requires_grad_(True)
    images = normalised(folder)[:count]
    questions, answers = texts(stage)
    samples = mini_prop.samples(questions, answers, images)
    image = [model.config.image_token_id] * model.config.num_query_tokens
    optimizer = torch.optim.AdamW(
        model.language_projection.parameters(), LEARNING_RATE
    )

    def batch() -> dict:
        ids, labels = [], []
        for read in map(row, samples):
            at = read.ids.index(IMAGE_SLOT)
            whole = read.ids[:at] + image + read.ids[at + 1 :]
            learned = read.supervised[:at] + [False] * len(image)
            learned += read.supervised[at + 1 :]
            ids.append(torch.tensor(whole))
            labels.append(ids[-1].where(torch.tensor(learned), -100))
        pad = torch.nn.utils.rnn.pad_sequence
        end = model.config.text_config.eos_token_id  # in no text here
        padded = pad(ids, batch_first=True, padding_value=end)
        return dict(
            input_ids=padded,
            attention_mask=(padded != end).long(),
            labels=pad(labels, batch_first=True, padding_value=-100),
        )

    def work() -> Tensor:
        loss = model(pixel_values=images, **batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        return loss.detach()

    return work, optimizer, model.language_projection


def normalised(folder: Path) -> Tensor:
    """Return the images normalized in fp32, as a peer's data workers do."""
    # OpenAI CLIP's constants
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
    return (torch.from_numpy(np.load(folder / PIXELS)) / 255 - mean) / std


def prepare(size: str = 'mini-prop') -> Path:
    """Write weights and images; returns their folder."""
    folder = mini_prop.weights(size)
    pixels = mini_prop.images(8, size)
    np.save(folder / PIXELS, pixels.numpy())
    return folder


def _digests(count: int) -> list[bytes]:
    from minigpt4.datasets.feature_cache import image_digest

    return [image_digest(bytes([i])) for i in range(count)]


def write_features(folder: Path, dtype: str) -> None:
    """Write the features of the images to a cache of a dtype."""
    from minigpt4.datasets.feature_writer import FeatureWriter

    if (folder / dtype).exists():
        return
    model = mini_prop.build(folder)
    with torch.no_grad():
        queries = model.encode_images(normalised(folder))
    writer = FeatureWriter(folder / dtype, {}, queries.shape[1:], dtype)
    writer.add(_digests(len(queries)), queries)
    writer.close()


def write_peer(folder: Path, layout: str) -> None:
    """Write all weights with the names of a peer."""
    from safetensors.torch import load_file, save_file

    from minigpt4.weights.layouts import COMPONENTS, to_layout
    from minigpt4.weights.read import LazyTensor

    theirs = layout == 'mmpretrain'
    out = {}
    for part in COMPONENTS:
        ours = {
            ('head.' if part == 'head' else '') + name: LazyTensor.of(tensor)
            for name, tensor in load_file(
                folder / f'{part}.safetensors'
            ).items()
        }
        whole = 'vision_encoder.' if theirs and part == 'backbone' else ''
        for name, tensor in to_layout(part, layout, ours).items():
            out[whole + name] = tensor.read().contiguous()
    llm = load_file(folder / 'llm' / 'model.safetensors')
    whole = 'llama_model.' if theirs else 'language_model.'
    out |= {whole + name: tensor for name, tensor in llm.items()}
    if theirs:
        save_file(out, folder / 'mmpretrain.safetensors')
        return
    (folder / layout).mkdir(exist_ok=True)
    save_file(out, folder / layout / 'model.safetensors', {'format': 'pt'})
    mini_prop.blip2_config(folder).save_pretrained(folder / layout)


def build(side: str, stage: str, folder: Path) -> tuple[Callable, dict]:
    """Build the work of a side, and its guard: loss and gradient of step 1."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if side in SIDES:
        made = ours(stage, folder, **SIDES[side])
    elif side == 'ours-mmpretrain':
        sys.path.insert(0, str(harness.HERE.parent / 'tests' / 'parity'))
        from tiny_model import MMPRETRAIN_TEMPLATE

        made = ours(stage, folder, template=MMPRETRAIN_TEMPLATE)
    else:
        peers = dict(official=official, mmpretrain=mmpretrain, blip2=blip2)
        made = peers[side](stage, folder)
    step, optimizer, projection = made
    gradients = {}

    def record(*_) -> None:
        gradients['weight'] = projection.weight.grad.clone()
        gradients['bias'] = projection.bias.grad.clone()

    handle = optimizer.register_step_pre_hook(record)
    loss = step()
    handle.remove()

    def work() -> None:
        step()

    guard = dict(
        loss=loss.numpy(),
        gradient=gradients['weight'].numpy(),
        bias_gradient=gradients['bias'].numpy(),
    )
    return work, guard


def command(side: str, stage: str, folder: Path, python: str = '') -> list:
    """Return the command of a worker."""
    return [python or sys.executable, __file__, side, stage, str(folder)]


def row(
    name: str,
    stage: str,
    goal: float,
    repeats: int,
    side: str = 'ours',
    peer: str = 'official',
    tolerance: float | Mapping[str, float] = 1e-5,
) -> dict:
    """Compare one of our sides with a peer, or with another of ours."""
    unit = 'samples/CPU-s'
    python = os.environ.get(PEER_VARIABLE, '')
    if peer == 'mmpretrain' and not python:
        return harness.skipped(
            name,
            unit,
            f'{PEER_VARIABLE} names no Python with MMPretrain and '
            'transformers 4.49 (tests/parity/compare_mmpretrain.sh makes '
            'one)',
            goal=goal,
        )
    folder = prepare()
    if features := SIDES.get(side, {}).get('features'):
        write_features(folder, features)
    if peer in LAYOUTS:
        write_peer(folder, LAYOUTS[peer])
    return harness.compare(
        name,
        command(side, stage, folder),
        command(peer, stage, folder, python if peer == 'mmpretrain' else ''),
        unit,
        goal,
        peer_name=dict(
            official='official step, reimplemented',
            mmpretrain='MMPretrain 1.2.0, live',
            blip2='BLIP-2 of transformers, live',
        ).get(peer, 'our own step in fp32'),
        per=STAGES[stage][0],
        tolerance=tolerance,
        repeats=repeats,
    )


if __name__ == '__main__':
    harness.worker(
        lambda: build(sys.argv[1], sys.argv[2], Path(sys.argv[3])), warm_ups=1
    )
