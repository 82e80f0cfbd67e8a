# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The small model against transformers, with the same parts and photographs.

SmolLM2-135M-Instruct and EfficientNet-Lite2 with the published projection, in
fp32. The peer (:class:`Plain`) is what one writes with transformers alone: the
chat template of the tokenizer, a batch with padding and an attention mask,
``generate``, and a training loop with labels of -100. transformers has no
EfficientNet-Lite, so the frozen vision parts are ours on both sides.

Captions end by themselves, or after 24 tokens, without a repetition
penalty. Each row is followed by one of
the wall time of the same repetitions. ``MINIGPT4_PHOTOS`` names a folder of
photographs: ``captions_train.json`` and ``captions_test.json`` in COCO's
layout, and the images in ``train`` and ``test``.

    python benchmarks/small.py SIDE TASK FOLDER
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

MODEL = 'minigpt-4_small_caption'
PHOTOS_VARIABLE = 'MINIGPT4_PHOTOS'
PEER_NAME = 'transformers, live'
PHOTOGRAPHS = 32
SLOTS = 16  # concurrent requests; the batch size of the peer
GUARD_REPEATS = 3  # first tokens that the guard compares
QUESTION = 'Describe this image in detail.'
WRAPPED = f'<Img><ImageHere></Img> {QUESTION}'
LEARNING_RATE = 2e-4
TOLERANCE = 1e-4  # of losses and gradients
CACHED = '-cached'  # end of the name of a task that reads stored features
SIDES = ('ours', 'plain')
# of get_model; at most 24 tokens, a sentence, so that a run takes minutes;
# transformers applies a penalty to the words of the prompt too
SETTINGS: dict = dict(
    generation=dict(max_new_tokens=24, repetition_penalty=1.0)
)
RUN_FILE = 'run.json'


class Stage(NamedTuple):
    """A stage of training, with the values of its config.

    Attributes:
        samples: Samples of a step.
        settings: Of the model.
    """

    samples: int
    settings: dict


STAGES = {
    'stage-1': Stage(
        20, dict(prompt_template='bare', prompt='', max_text_length=32)
    ),
    'stage-2': Stage(4, dict(max_text_length=160)),
}


class Task(NamedTuple):
    """What a repetition does.

    Attributes:
        unit: Of the figures, without the seconds.
        per: Items of a repetition.
        rate: Whether a figure is items per second, else seconds.
        repeats: The most repetitions of each side.
    """

    unit: str
    per: int
    rate: bool
    repeats: int


TASKS = {
    'ttft': Task('to the first token', 1, False, 16),
    'stage-1': Task('samples', STAGES['stage-1'].samples, True, 5),
    'stage-2': Task('samples', STAGES['stage-2'].samples, True, 5),
    'stage-1-cached': Task('samples', STAGES['stage-1'].samples, True, 5),
    'caption': Task('captions', PHOTOGRAPHS, True, 3),
}


class Photographs(NamedTuple):
    """The photographs of all rows.

    Attributes:
        test: Files to caption.
        train: Files to train on.
        captions: A caption of each file of ``train``.
        descriptions: A description of each.
    """

    test: list[str]
    train: list[str]
    captions: list[str]
    descriptions: list[str]


def choose_photographs(folder: Path, number: int) -> Photographs:
    """Choose the first photographs of a folder; see the module.

    Descriptions are made of the captions, as for stage 2 of the small model.

    Args:
        folder: The folder.
        number: Photographs to caption, and to train on.
    """
    from minigpt4.datasets.caption_descriptions import describe

    test, train = (
        _captioned(folder / f'captions_{part}.json')
        for part in ('test', 'train')
    )
    described = [
        (name, captions, text)
        for name, captions in train
        if (text := describe(captions)) is not None
    ][:number]
    return Photographs(
        [str(folder / 'test' / name) for name, _ in test[:number]],
        [str(folder / 'train' / name) for name, _, _ in described],
        [captions[0] for _, captions, _ in described],
        [text for _, _, text in described],
    )


def _captioned(file: Path) -> list[tuple[str, list[str]]]:
    """Names of the images of a COCO file with their captions."""
    content = json.loads(file.read_text())
    captions: dict[int, list[str]] = {}
    for entry in content['annotations']:
        captions.setdefault(entry['image_id'], []).append(
            entry['caption'].strip()
        )
    return [
        (image['file_name'], captions[image['id']])
        for image in content['images']
        if image['id'] in captions
    ]


class Ours:
    """This package's side.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def caption(self, images: Sequence[Tensor]) -> list[list[int]]:
        """Ids of the descriptions of images, by an engine without caches."""
        from minigpt4.generation.engine import Engine

        return self._answer(Engine(self.model, SLOTS), images)

    def first_tokens(self, images: Sequence[Tensor]) -> Callable[[], int]:
        """Function to the first id of the answer about the next image."""
        from minigpt4.generation.engine import Engine

        engine, remaining = Engine(self.model, slots=1), iter(images)

        def first() -> int:
            ((token,),) = self._answer(engine, [next(remaining)], 1)
            return token

        return first

    def _answer(
        self,
        engine: Any,
        images: Sequence[Tensor],
        max_new_tokens: int | None = None,
    ) -> list[list[int]]:
        from minigpt4.chat.session import build_prompt
        from minigpt4.prompts import Turn

        settings = {}
        if max_new_tokens is not None:
            settings['max_new_tokens'] = max_new_tokens
        requests = []
        for image in images:
            prompt = build_prompt(
                self.model, [Turn(QUESTION)], [image], **settings
            )
            requests.append(
                engine.submit(prompt.tokenized, prompt.images, **settings)
            )
        while engine.step():
            pass
        for request in requests:
            if request.error is not None:
                raise request.error
        return [request.token_ids for request in requests]

    def trainer(
        self, images: Sequence[Tensor], answers: Sequence[str]
    ) -> tuple[Callable[[], Tensor], torch.optim.Optimizer]:
        """A training step with its collating; returns also the optimizer."""
        import mini_prop
        from mmengine.optim import OptimWrapper

        question = '' if self.model.template.name == 'bare' else WRAPPED
        samples = mini_prop.samples(
            [question] * len(answers), list(answers), images
        )
        collate = self.model.collator(training=True)
        optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            LEARNING_RATE,
        )
        wrapper = OptimWrapper(optimizer)

        def step() -> Tensor:
            return self.model.train_step(collate(samples), wrapper)['loss']

        return step, optimizer


class Plain:
    """The peer: transformers and torch, with the same weights.

    Args:
        model: Our model, whose vision parts and projection it uses.
        llm: The LLM, loaded by transformers.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, llm: Any, tokenizer: Any) -> None:
        self.model, self.llm, self.tokenizer = model, llm.eval(), tokenizer
        llm.requires_grad_(False)
        self.head = model.head
        self.normalize = model.data_preprocessor.normalize
        self.stop_ids = list(model.stop_ids)
        self.max_new_tokens = model.generation.get('max_new_tokens', 300)
        self.max_text_length = model.max_text_length
        self.is_bare = model.template.name == 'bare'
        self.words = llm.get_input_embeddings()

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """Image tokens; images are pixels or stored features."""
        batch = torch.stack(list(images))
        with torch.no_grad():
            if batch.dtype == torch.uint8:
                batch = self.model.encode_images(self.normalize(batch))
        return self.head(batch)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def prompt(self) -> tuple[list[int], list[int]]:
        """Ids before and behind the image; none without a question."""
        if self.is_bare:
            return [], []
        text = self.tokenizer.apply_chat_template(
            [dict(role='user', content=WRAPPED)],
            tokenize=False,
            add_generation_prompt=True,
        )
        before, after = text.split('<ImageHere>')
        return self.ids(before), self.ids(after)

    def embed(self, image: Tensor, answer: Sequence[int] = ()) -> Tensor:
        """Embeddings of the prompt of an image, and of an answer."""
        before, after = self.prompt()
        behind = torch.tensor([*after, *answer], dtype=torch.long)
        parts = (self.words(torch.tensor(before, dtype=torch.long)), image)
        return torch.cat((*parts, self.words(behind)))

    @torch.no_grad()
    def generate(
        self, images: Sequence[Tensor], max_new_tokens: int
    ) -> list[list[int]]:
        """Ids of the answers about a batch of images, without the end."""
        # prompts of one length need no padding
        rows = torch.stack([self.embed(t) for t in self.encode(images)])
        ids = self.llm.generate(
            inputs_embeds=rows,
            attention_mask=torch.ones(rows.shape[:2], dtype=torch.long),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[0],
        ).tolist()
        return [self.without_end(row) for row in ids]

    def without_end(self, ids: list[int]) -> list[int]:
        """Ids before the first one that ends an answer."""
        ends = [i for i, token in enumerate(ids) if token in self.stop_ids]
        return ids[: ends[0]] if ends else ids

    def caption(self, images: Sequence[Tensor]) -> list[list[int]]:
        """As ours, in batches."""
        return [
            ids
            for start in range(0, len(images), SLOTS)
            for ids in self.generate(
                images[start : start + SLOTS], self.max_new_tokens
            )
        ]

    def first_tokens(self, images: Sequence[Tensor]) -> Callable[[], int]:
        """As ours."""
        remaining = iter(images)

        def first() -> int:
            ((token,),) = self.generate([next(remaining)], 1)
            return token

        return first

    def loss(self, images: Sequence[Tensor], answers: Sequence[str]) -> Tensor:
        """The loss of a batch, by the LLM's own ``labels``."""
        end = '\n' if self.is_bare else '<|im_end|>'
        rows, labels = [], []
        for image, answer in zip(self.encode(images), answers, strict=True):
            target = self.ids(answer + end)[: self.max_text_length]
            rows.append(self.embed(image, target))
            ignored = torch.full((len(rows[-1]) - len(target),), -100)
            labels.append(torch.cat((ignored, torch.tensor(target))))
        mask = [torch.ones(len(row), dtype=torch.long) for row in rows]
        return self.llm(
            inputs_embeds=pad_sequence(rows, batch_first=True),
            attention_mask=pad_sequence(mask, batch_first=True),
            labels=pad_sequence(labels, batch_first=True, padding_value=-100),
            use_cache=False,
        ).loss

    def trainer(
        self, images: Sequence[Tensor], answers: Sequence[str]
    ) -> tuple[Callable[[], Tensor], torch.optim.Optimizer]:
        """As ours."""
        optimizer = torch.optim.AdamW(self.head.parameters(), LEARNING_RATE)

        def step() -> Tensor:
            loss = self.loss(images, answers)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return step, optimizer


def work_of(
    side: Ours | Plain,
    task: str,
    images: Sequence[Tensor],
    answers: Sequence[str] = (),
) -> tuple[Callable[[], object], dict]:
    """A repetition of a task, and its guard.

    Args:
        side: The side that works.
        task: A name of ``TASKS``.
        images: ``(3, H, W)`` uint8, or features of a task with
            ``CACHED``. For first tokens at least ``GUARD_REPEATS`` more than
            repetitions.
        answers: Answers to train on.
    """
    if task == 'caption':
        answered = side.caption(images)
        guard = dict(
            ids=[token for ids in answered for token in ids],
            lengths=[len(ids) for ids in answered],
        )
        return (lambda: side.caption(images)), guard
    if task == 'ttft':
        first = side.first_tokens(images)
        return first, dict(ids=[first() for _ in range(GUARD_REPEATS)])
    step, optimizer = side.trainer(images, answers)
    gradients: list[Tensor] = []

    def record(*_: object) -> None:
        gradients.extend(
            parameter.grad.clone()
            for group in optimizer.param_groups
            for parameter in group['params']
        )

    handle = optimizer.register_step_pre_hook(record)
    loss = step()
    handle.remove()
    guard = dict(loss=loss.numpy())
    for i, gradient in enumerate(gradients):
        guard[f'gradient_{i}'] = gradient.numpy()
    return step, guard


def load_side(side: str, settings: dict) -> Ours | Plain:
    """Load the model of a side.

    Args:
        side: ``ours`` or ``plain``.
        settings: Arguments of :func:`minigpt4.get_model`.
    """
    from minigpt4 import get_model

    model = get_model(MODEL, device='cpu', **settings)
    if side == 'ours':
        return Ours(model)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from minigpt4 import compat
    from minigpt4.llm.locate import locate_llm

    folder = locate_llm(model.decoder.name_or_path)
    llm = AutoModelForCausalLM.from_pretrained(
        folder, **compat.dtype_argument(torch.float32)
    )
    return Plain(model, llm, AutoTokenizer.from_pretrained(folder))


def load_inputs(
    task: str, photographs: Photographs, image_size: int
) -> tuple[list[Tensor], list[str]]:
    """Pixels of the photographs of a task, and the answers to train on."""
    from minigpt4.images.read import load_image

    files, answers = photographs.test, []
    stage = task.removesuffix(CACHED)
    if stage in STAGES:
        of_stage = dict(
            zip(STAGES, (photographs.captions, photographs.descriptions))
        )
        number = STAGES[stage].samples
        files = photographs.train[:number]
        answers = of_stage[stage][:number]
    return [load_image(file, image_size) for file in files], answers


def build(side: str, task: str, folder: Path) -> tuple[Callable, dict]:
    """The work of a side, and its guard."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    content = json.loads((folder / RUN_FILE).read_text())
    settings = content['settings']
    stage = task.removesuffix(CACHED)
    if stage in STAGES:
        settings = settings | STAGES[stage].settings
    loaded = load_side(side, settings)
    model = loaded.model
    images, answers = load_inputs(
        task, Photographs(**content['photographs']), model.image_size
    )
    if task.endswith(CACHED):
        images = store_features(model, images)
    work, guard = work_of(loaded, task, images, answers)
    return timed(work, folder / f'{task}-{side}.json'), guard


def store_features(model: Any, images: Sequence[Tensor]) -> list[Tensor]:
    """Features of images; the model takes only features afterwards."""
    from minigpt4.models.q_former import CachedQueries

    pixels = model.data_preprocessor.normalize(torch.stack(list(images)))
    with torch.no_grad():
        features = model.encode_images(pixels)
    model.backbone = None
    model.neck = CachedQueries(*features.shape[1:])
    return list(features)


def timed(work: Callable[[], object], file: Path) -> Callable[[], float]:
    """Work that returns its CPU time and stores its wall times in a file."""
    walls: list[float] = []

    def once() -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        cpu = time.process_time() - cpu
        walls.append(time.perf_counter() - wall)
        file.write_text(json.dumps(walls))
        return cpu

    return once


def compare(task: str, folder: Path, repeats: int) -> Iterator[dict]:
    """Measure a task; yields its row of CPU time and that of wall time."""
    unit, per, rate, most = TASKS[task]

    def unit_of(second: str) -> str:
        return f'{unit}/{second}' if rate else f'{second} {unit}'

    row = harness.compare(
        f'small {task}',
        *(harness.side(__file__, side, task, folder) for side in SIDES),
        unit_of('CPU-s'),
        None,
        peer_name=PEER_NAME,
        per=per,
        rate=rate,
        tolerance=TOLERANCE,
        repeats=min(repeats, most),
    )
    yield row
    walls = {
        name: json.loads((folder / f'{task}-{side}.json').read_text())
        for name, side in zip(('ours', 'peer'), SIDES)
    }

    def of_wall(choose: Callable) -> dict:
        figures = {name: choose(walls[name]) for name in walls}
        ratio = figures['peer'] / figures['ours']
        if rate:
            figures = {name: per / figure for name, figure in figures.items()}
        return dict(figures, ratio=ratio)

    yield harness.row(
        f'small {task} wall',
        unit=unit_of('s'),
        **of_wall(min),
        guard_ok=row['guard_ok'],
        guard=row['guard'],
        peer_name=PEER_NAME,
        median=of_wall(statistics.median),
        repeats=row['repeats'],
    )


def measure(repeats: int) -> Iterator[dict]:
    """The rows."""
    photos = os.environ.get(PHOTOS_VARIABLE)
    if not photos:
        for task, (unit, *_) in TASKS.items():
            reason = f'{PHOTOS_VARIABLE} is not set; see benchmarks/README.md'
            yield harness.skipped(f'small {task}', unit, reason)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        chosen = choose_photographs(Path(photos), PHOTOGRAPHS)
        content = dict(settings=SETTINGS, photographs=chosen._asdict())
        (folder / RUN_FILE).write_text(json.dumps(content))
        for task in TASKS:
            yield from compare(task, folder, repeats)


if __name__ == '__main__':
    harness.worker(lambda: build(*sys.argv[1:3], Path(sys.argv[3])), 0)
