# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers of both sides, on the same weights, prompts and images.

A row's file names a task and its sizes; this file is the worker of its sides.

    python benchmarks/generation.py SIDE TASK FOLDER SETTINGS

The lengths of answers are forced: no side ever chooses an end of text
(:func:`let_speak`), though all look for it after each token.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import harness
import mini_prop
import numpy as np
import torch
from torch import Tensor

PEERS = dict(
    transformers="transformers' generate, live",
    official='official, re-stated',
    live='official, transformers 4.30.2 live',
)
LIVE_VARIABLE = 'MINIGPT4_OFFICIAL_PYTHON'  # an environment of its own
QUESTION = f'<Img><ImageHere></Img> {mini_prop.ALIGNMENT_PROMPTS[0]}'
COMPILE_TIME = 'compile-time'


@torch.no_grad()
def let_speak(llm, tokenizer) -> None:
    """Let a random LLM say words that depend on all before, without end.

    Matrices of its layers are scaled so that they keep the size of what goes
    through; else each word would follow from the last one alone, and a wrong
    prompt would give the same answer. It never says EOS, nor a ``#`` that
    could become ``###``: their logits are 0, which is never the highest.
    """
    width = llm.config.hidden_size
    for layer in llm.model.layers:
        for parameter in layer.parameters():
            if parameter.ndim == 2:  # drawn with a deviation of 0.02
                parameter.data = parameter / (0.02 * math.sqrt(width))
    head = llm.get_output_embeddings()
    weight = head.weight.clone()
    texts = tokenizer.batch_decode([[i] for i in range(len(weight))])
    ends = [i for i, text in enumerate(texts) if '#' in text]
    weight[[tokenizer.eos_token_id, *ends]] = 0
    head.weight = torch.nn.Parameter(weight, requires_grad=False)


def our_model(folder: Path, cached: bool = False):
    """Our model, that speaks."""
    model = mini_prop.build(folder, cached)
    let_speak(model.decoder.llm, model.decoder.tokenizer)
    return model


def official_model(folder: Path, cached: bool = False):
    """The official one."""
    from official import OfficialModel

    model = OfficialModel(folder, '###', 160, encode=not cached)
    model.requires_grad_(False)
    let_speak(model.llm, model.tokenizer)
    return model


def normalised(pixels: Tensor) -> Tensor:
    """Images as a peer's data workers give them, fp32."""
    from minigpt4.registry import MODELS

    return MODELS.build(dict(type='minigpt4.ImageNormalizer')).normalize(
        pixels
    )


class _Clock:
    """A stopping criterion of transformers that notes when token two came."""

    def __init__(self) -> None:
        self.calls, self.at = 0, 0.0

    def __call__(self, ids: Tensor, scores, **_) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            self.at = time.process_time()
        return torch.zeros(len(ids), dtype=torch.bool)


def _greedily(llm, embeddings: Tensor, tokens: int, clock=None) -> Tensor:
    """Ids by transformers' ``generate``, which stops at EOS."""
    from transformers import StoppingCriteriaList

    return llm.generate(
        inputs_embeds=embeddings,
        attention_mask=embeddings.new_ones(embeddings.shape[:2]).long(),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=llm.config.eos_token_id,
        pad_token_id=0,
        stopping_criteria=None
        if clock is None
        else StoppingCriteriaList([clock]),
    )


# of embeddings and a number of tokens: ids, and when token two was there
Answer = Callable[[Tensor, int], tuple[list[list[int]], float]]


def _by_engine(side: str, folder: Path, rows: int) -> Answer:
    from minigpt4.generation.engine import Engine

    model = our_model(folder, cached=True)
    engine = Engine(model, rows, compile=side == 'compiled')

    def answer(embeddings: Tensor, tokens: int):
        given = [
            engine.submit_embedded(row, max_new_tokens=tokens)
            for row in embeddings
        ]
        engine.step()  # the prompts and two tokens
        second = time.process_time()
        while engine.step():
            pass
        return [row.token_ids for row in given], second

    return answer


def _by_transformers(folder: Path, whole: bool) -> Answer:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = AutoModelForCausalLM.from_pretrained(folder / 'llm')
    llm.requires_grad_(False)
    let_speak(llm, AutoTokenizer.from_pretrained(folder / 'llm'))

    def answer(embeddings: Tensor, tokens: int):
        clock = None if whole else _Clock()
        ids = _greedily(llm, embeddings, tokens, clock)
        return ids.tolist(), clock.at if clock else math.nan

    return answer


def _officially(folder: Path) -> Answer:
    from official_chat import OfficialChat

    chat = OfficialChat(official_model(folder, cached=True))

    def answer(embeddings: Tensor, tokens: int):
        ids = chat.llama.generate(embeddings, tokens, chat.stops)
        return ids.tolist(), math.nan

    return answer


def _live(folder: Path) -> Answer:
    """What ``Chat.answer`` has transformers 4.30.2 do, greedily."""
    from official_chat import StoppingCriteriaSub, stop_ids
    from transformers import (
        LlamaForCausalLM,
        LlamaTokenizer,
        StoppingCriteriaList,
    )

    llm = LlamaForCausalLM.from_pretrained(folder / 'llm')
    llm.requires_grad_(False)
    tokenizer = LlamaTokenizer.from_pretrained(folder / 'llm')
    let_speak(llm, tokenizer)
    folded = mini_prop.Folded(tokenizer, llm.config.vocab_size)
    stop = StoppingCriteriaSub(stop_ids(folded))

    def answer(embeddings: Tensor, tokens: int):
        ids = llm.generate(
            inputs_embeds=embeddings,
            max_new_tokens=tokens,
            stopping_criteria=StoppingCriteriaList(
                [lambda ids, scores, **_: stop(ids)]
            ),
            num_beams=1,
            do_sample=False,
            min_length=1,
        )
        return ids[:, 1:].tolist(), math.nan  # behind a BOS

    return answer


def decode(
    side: str,
    folder: Path,
    rows: int = 1,
    prompt: int = 100,
    tokens: int = 60,
    whole: bool = True,
) -> tuple[Callable, Callable]:
    """Answer random embeddings.

    Args:
        side: ``ours``, ``compiled`` or a peer.
        folder: The weights.
        rows: Prompts in a batch.
        prompt: Tokens of each.
        tokens: Of each answer.
        whole: Whether the prompt and the first two tokens count; official
            peers know it no other way.

    Returns:
        A function that gives ids and seconds, and the guard of ids.
    """
    sizes = mini_prop.SIZES[(folder / 'size').read_text()]['llm']
    shape = rows, prompt, sizes['hidden_size']
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(shape, generator=generator) * 0.02
    if side == 'transformers':
        answer = _by_transformers(folder, whole)
    elif side == 'official':
        answer = _officially(folder)
    elif side == 'live':
        answer = _live(folder)
    else:
        answer = _by_engine(side, folder, rows)

    def once():
        start = time.process_time()
        ids, second = answer(embeddings, tokens)
        return ids, time.process_time() - (start if whole else second)

    return once, np.asarray


def forced_lengths(count: int, median: int) -> list[int]:
    """Lengths of answers, lognormal with a sigma of 0.45."""
    drawn = np.random.default_rng(0).lognormal(math.log(median), 0.45, count)
    return [max(2, round(length)) for length in drawn]


def caption(
    side: str,
    folder: Path,
    count: int = 64,
    slots: int = 16,
    median: int = 80,
) -> tuple[Callable, Callable]:
    """Caption images, with forced lengths.

    Args:
        side: ``ours`` or a peer.
        folder: The weights.
        count: Images.
        slots: Answers at once: a peer's batch.
        median: Of the lengths, in tokens.

    Returns:
        As :func:`decode`.
    """
    size = (folder / 'size').read_text()
    images = mini_prop.images(count, size)
    lengths = forced_lengths(count, median)
    samples = mini_prop.samples([QUESTION] * count, [None] * count, images)
    if side == 'official':
        caption_batch = _official_batch(folder, images)
    else:
        model = our_model(folder)
        collator = model.collator(training=False)

        @torch.no_grad()
        def caption_batch(batch: slice, tokens: int):
            data = model.data_preprocessor(collator(samples[batch]), False)
            embeddings = model.embed(data['images'], data['inputs'])
            return _greedily(model.decoder.llm, embeddings, tokens)

    def in_batches():
        out: list[list[int]] = []
        for start in range(0, count, slots):
            batch = slice(start, start + slots)
            ids = caption_batch(batch, max(lengths[batch])).tolist()
            out += [row[:n] for row, n in zip(ids, lengths[batch])]
        return out

    def by_engine():
        from minigpt4.generation.engine import Engine

        engine = Engine(model, slots)  # knows nothing of these images
        rows = [
            engine.submit(
                collator.row(sample), sample.images, max_new_tokens=length
            )
            for sample, length in zip(samples, lengths)
        ]
        while engine.step():
            pass
        return [row.token_ids for row in rows]

    answer = by_engine if side == 'ours' else in_batches

    def once():
        start = time.process_time()
        ids = answer()
        return ids, time.process_time() - start

    return once, np.concatenate


def _official_batch(folder: Path, images: Tensor) -> Callable:
    """``MiniGPTBase.generate``, whose stopping criteria are commented out."""
    from official_chat import OfficialLlama

    model = official_model(folder)
    llama = OfficialLlama(model.llm)
    images = normalised(images)
    prompt = f'###Human: {QUESTION} ###Assistant: '

    @torch.no_grad()
    def caption_batch(batch: slice, tokens: int):
        encoded, mask = model.encode_images(images[batch])
        # all prompts have one length, so that nothing is padded
        rows, _ = model.wrap(encoded, mask, [prompt] * len(encoded))
        bos = torch.tensor([[model.tokenizer.bos_token_id]])
        first = model.words(bos).expand(len(rows), -1, -1)
        return llama.generate(torch.cat((first, rows), dim=1), tokens)

    return caption_batch


TASKS = dict(decode=decode, caption=caption)


def build(
    side: str, task: str, folder: Path, settings: dict
) -> tuple[Callable, dict]:
    """The work of a side and its guard: the ids of all answers."""
    torch.set_num_threads(1)
    once, flat = TASKS[task](side, folder, **settings)
    start = time.perf_counter()
    ids, _ = once()
    if side == 'compiled':
        seconds = time.perf_counter() - start
        (folder / COMPILE_TIME).write_text(str(seconds))
    guard = dict(ids=flat(ids), lengths=[len(row) for row in ids])
    return (lambda: once()[1]), guard


class Row(NamedTuple):
    """What a row compares.

    Attributes:
        name: Its name.
        task: A name of ``TASKS``.
        size: A name of ``mini_prop.SIZES``.
        settings: Of the task.
        unit: Of the figures.
        per: Items of one repetition.
        peer: A name of ``PEERS``.
        goal: By what factor ours has to be better.
        side: Ours or ours compiled.
        rate: Whether figures are items per second, else ms per item.
    """

    name: str
    task: str
    size: str
    settings: dict
    unit: str
    per: float
    peer: str
    goal: float | None
    side: str = 'ours'
    rate: bool = True


def compare(row: Row, repeats: int) -> dict:
    """Measure a row."""
    if row.peer == 'live':
        for variable in (LIVE_VARIABLE, mini_prop.TOKENIZER_VARIABLE):
            if variable not in os.environ:
                reason = f'{variable} is not set; see benchmarks/README.md'
                return harness.skipped(
                    row.name, row.unit, reason, goal=row.goal
                )
    folder = mini_prop.weights(row.size)

    def command(side: str) -> list[str]:
        settings = json.dumps(row.settings)
        command = harness.side(__file__, side, row.task, folder, settings)
        if side == 'live':
            command[0] = os.environ[LIVE_VARIABLE]
        return command

    measured = harness.compare(
        row.name,
        command(row.side),
        command(row.peer),
        row.unit,
        row.goal,
        peer_name=PEERS[row.peer],
        per=row.per,
        rate=row.rate,
        scale=1 if row.rate else 1e3,
        repeats=repeats,
    )
    if row.side == 'compiled':
        seconds = float((folder / COMPILE_TIME).read_text())
        measured['compile_s'] = seconds
        measured['peer_name'] += f' (ours compiled in {seconds:.0f} s)'
    return measured


def main(arguments: Sequence[str]) -> None:
    """Be a worker."""
    side, task, folder, settings = arguments
    harness.worker(
        lambda: build(side, task, Path(folder), json.loads(settings)),
        warm_ups=0,  # the guard's answers are one
    )


if __name__ == '__main__':
    main(sys.argv[1:])
