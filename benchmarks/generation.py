# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Generation on both sides, with the same weights, prompts and images.

A benchmark's module names a task and its sizes; this is the worker script of
both sides.

    python benchmarks/generation.py SIDE TASK FOLDER SETTINGS

The lengths of answers are fixed: no side ever chooses end of text
(:func:`prepare_llm`), though all check for it after each token.
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
    official='official, reimplemented',
    live='official, transformers 4.30.2 live',
)
LIVE_VARIABLE = 'MINIGPT4_OFFICIAL_PYTHON'  # an environment of its own
QUESTION = f'<Img><ImageHere></Img> {mini_prop.ALIGNMENT_PROMPTS[0]}'
COMPILE_TIME = 'compile-time'


@torch.no_grad()
def prepare_llm(llm, tokenizer) -> None:
    """Make a random LLM generate endless text that depends on its prompt.

    The matrices of its layers are scaled so that they preserve the norm of
    their inputs; else each token would depend on the last one only, and a
    wrong prompt would give the same answer. It never generates EOS, nor a
    ``#`` that could become ``###``: their logits are 0, which is never the
    highest.
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
    """Our model, with an LLM that generates endless text."""
    model = mini_prop.build(folder, cached)
    prepare_llm(model.decoder.llm, model.decoder.tokenizer)
    return model


def official_model(folder: Path, cached: bool = False):
    """The official model, likewise."""
    from official import OfficialModel

    model = OfficialModel(folder, '###', 160, encode=not cached)
    model.requires_grad_(False)
    prepare_llm(model.llm, model.tokenizer)
    return model


def normalised(pixels: Tensor) -> Tensor:
    """Images as returned by a peer's data workers, fp32."""
    from minigpt4.registry import MODELS

    return MODELS.build(dict(type='minigpt4.ImageNormalizer')).normalize(
        pixels
    )


class _SecondTokenClock:
    """A stopping criterion that records the time of the second token."""

    def __init__(self) -> None:
        self.calls, self.time = 0, 0.0

    def __call__(self, ids: Tensor, scores, **_) -> Tensor:
        self.calls += 1
        if self.calls == 2:
            self.time = time.process_time()
        return torch.zeros(len(ids), dtype=torch.bool)


def _generate_greedily(
    llm, embeddings: Tensor, tokens: int, clock=None
) -> Tensor:
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


# function of embeddings and a number of tokens to ids, and to the time of
# the second token
Answer = Callable[[Tensor, int], tuple[list[list[int]], float]]


def _answer_with_engine(side: str, folder: Path, rows: int) -> Answer:
    from minigpt4.generation.engine import Engine

    model = our_model(folder, cached=True)
    engine = Engine(model, rows, compile=side == 'compiled')

    def answer(embeddings: Tensor, tokens: int):
        requests = [
            engine.submit_embeddings(prompt, max_new_tokens=tokens)
            for prompt in embeddings
        ]
        engine.step()  # prefill and two tokens
        second = time.process_time()
        while engine.step():
            pass
        return [request.token_ids for request in requests], second

    return answer


def _answer_with_transformers(folder: Path, with_prefill: bool) -> Answer:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    llm = AutoModelForCausalLM.from_pretrained(folder / 'llm')
    llm.requires_grad_(False)
    prepare_llm(llm, AutoTokenizer.from_pretrained(folder / 'llm'))

    def answer(embeddings: Tensor, tokens: int):
        clock = None if with_prefill else _SecondTokenClock()
        ids = _generate_greedily(llm, embeddings, tokens, clock)
        return ids.tolist(), clock.time if clock else math.nan

    return answer


def _answer_officially(folder: Path) -> Answer:
    from official_chat import OfficialChat

    chat = OfficialChat(official_model(folder, cached=True))

    def answer(embeddings: Tensor, tokens: int):
        ids = chat.llama.generate(embeddings, tokens, chat.stops)
        return ids.tolist(), math.nan

    return answer


def _answer_live(folder: Path) -> Answer:
    """``Chat.answer`` with transformers 4.30.2, greedy."""
    from official_chat import StoppingCriteriaSub, stop_ids
    from transformers import (
        LlamaForCausalLM,
        LlamaTokenizer,
        StoppingCriteriaList,
    )

    llm = LlamaForCausalLM.from_pretrained(folder / 'llm')
    llm.requires_grad_(False)
    tokenizer = LlamaTokenizer.from_pretrained(folder / 'llm')
    prepare_llm(llm, tokenizer)
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
    with_prefill: bool = True,
) -> tuple[Callable, Callable]:
    """Answer random embeddings.

    Args:
        side: ``ours``, ``compiled`` or a peer.
        folder: The weights.
        rows: Prompts in a batch.
        prompt: Tokens of each prompt.
        tokens: Tokens of each answer.
        with_prefill: Whether the time includes the prompt and the first two
            tokens; it always does for official peers.

    Returns:
        A function that returns ids and seconds, and one from ids to the guard.
    """
    sizes = mini_prop.SIZES[(folder / 'size').read_text()]['llm']
    shape = rows, prompt, sizes['hidden_size']
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(shape, generator=generator) * 0.02
    if side == 'transformers':
        answer = _answer_with_transformers(folder, with_prefill)
    elif side == 'official':
        answer = _answer_officially(folder)
    elif side == 'live':
        answer = _answer_live(folder)
    else:
        answer = _answer_with_engine(side, folder, rows)

    def once():
        start = time.process_time()
        ids, second = answer(embeddings, tokens)
        return ids, time.process_time() - (start if with_prefill else second)

    return once, np.asarray


def forced_lengths(count: int, median: int) -> list[int]:
    """Lengths of answers in tokens, lognormal with a sigma of 0.45."""
    drawn = np.random.default_rng(0).lognormal(math.log(median), 0.45, count)
    return [max(2, round(length)) for length in drawn]


def caption(
    side: str,
    folder: Path,
    count: int = 64,
    slots: int = 16,
    median: int = 80,
) -> tuple[Callable, Callable]:
    """Caption images, with fixed lengths.

    Args:
        side: ``ours`` or a peer.
        folder: The weights.
        count: Images.
        slots: Concurrent requests; the batch size of a peer.
        median: Median of the lengths, in tokens.

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
            embeddings = model.embed_inputs(data['images'], data['inputs'])
            return _generate_greedily(model.decoder.llm, embeddings, tokens)

    def in_batches():
        answers: list[list[int]] = []
        for start in range(0, count, slots):
            batch = slice(start, start + slots)
            ids = caption_batch(batch, max(lengths[batch])).tolist()
            answers += [own[:n] for own, n in zip(ids, lengths[batch])]
        return answers

    def with_engine():
        from minigpt4.generation.engine import Engine

        engine = Engine(model, slots)  # with empty caches
        requests = [
            engine.submit(
                collator.tokenize(sample), sample.images, max_new_tokens=length
            )
            for sample, length in zip(samples, lengths)
        ]
        while engine.step():
            pass
        return [request.token_ids for request in requests]

    answer = with_engine if side == 'ours' else in_batches

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
        # all prompts have one length, without padding
        rows, _ = model.wrap(encoded, mask, [prompt] * len(encoded))
        bos = torch.tensor([[model.tokenizer.bos_token_id]])
        first = model.words(bos).expand(len(rows), -1, -1)
        return llama.generate(torch.cat((first, rows), dim=1), tokens)

    return caption_batch


TASKS = dict(decode=decode, caption=caption)


def build(
    side: str, task: str, folder: Path, settings: dict
) -> tuple[Callable, dict]:
    """The work of a side, and its guard: the ids of all answers."""
    torch.set_num_threads(1)
    once, flat = TASKS[task](side, folder, **settings)
    start = time.perf_counter()
    ids, _ = once()
    if side == 'compiled':
        seconds = time.perf_counter() - start
        (folder / COMPILE_TIME).write_text(str(seconds))
    guard = dict(ids=flat(ids), lengths=[len(own) for own in ids])
    return (lambda: once()[1]), guard


class Comparison(NamedTuple):
    """A comparison, one row of the results.

    Attributes:
        name: Its name.
        task: A name of ``TASKS``.
        size: A name of ``mini_prop.SIZES``.
        settings: Of the task.
        unit: Of the figures.
        per: Items of one repetition.
        peer: A name of ``PEERS``.
        goal: Factor by which ours has to be better.
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


def compare(row: Comparison, repeats: int) -> dict:
    """Measure a comparison; returns its row of the results."""
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
    """Run a worker."""
    side, task, folder, settings = arguments
    harness.worker(
        lambda: build(side, task, Path(folder), json.loads(settings)),
        warm_ups=0,  # the answers of the guard are a warm-up
    )


if __name__ == '__main__':
    main(sys.argv[1:])
