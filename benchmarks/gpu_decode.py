# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Generation with the 7B model on a GPU: one request, first token, many.

    python benchmarks/gpu_decode.py NAME [--device cpu --size tiny]

runs the same code on a small model. There is no peer. The guard of answers:
transformers' own pass scores the tokens of the engine as high as its own
choice. The guard of the first token: a likelihood is the same with the prefix
cache as without, within bf16.
"""

import time

import generation
import gpu
import mini_prop
import torch
import ttft
from torch import Tensor

TOLERANCE = 2e-2  # bf16, sums in another order
PROMPT, TOKENS = 100, 128
REPEATS = 5
IMAGES, SLOTS, CAPTION = 256, 128, 100
GOALS = {
    'decode-b1': ('ms/token', dict(at_most=3.6)),
    'decode-b1 compiled': ('ms/token', dict(at_most=3.6)),
    'ttft-h200 turn-1': ('ms to the first token', dict(at_most=8)),
    'ttft-h200 turn-3': ('ms to the first token', dict(at_most=5)),
    'caption-h200': ('captions/s', dict(at_least=100)),
}


@torch.no_grad()
def scores(model, embeddings: Tensor, ids: list[int]) -> tuple[float, float]:
    """Mean score of chosen tokens, and of the best, by transformers."""
    llm = model.decoder.llm
    chosen = torch.tensor(ids, device=llm.device)
    answer = llm.get_input_embeddings()(chosen[:-1])
    inputs = torch.cat((embeddings.to(answer), answer))[None]
    logits = llm(inputs_embeds=inputs).logits[0, -len(ids) :].float()
    best = logits.max(-1).values.mean()
    return logits.gather(1, chosen[:, None]).mean().item(), best.item()


def _row(name: str, figures: list[float], values) -> dict:
    unit, goals = GOALS[name]
    middle = sorted(figures)[len(figures) // 2]
    best = max(figures) if 'at_least' in goals else min(figures)
    return gpu.row(name, [best, middle], unit, values, TOLERANCE, goals)


def decode(model, device: str, name: str) -> dict:
    """One answer, without prefill and the first two tokens."""
    from minigpt4.generation.engine import Engine

    engine = Engine(model, 1, compile=name.endswith('compiled'))
    generator = torch.Generator().manual_seed(0)
    shape = PROMPT, model.decoder.hidden_size
    prompt = torch.randn(shape, generator=generator).to(device) * 0.02
    prompt = prompt.to(model.decoder.llm.dtype)
    figures = []
    for _ in range(REPEATS + 1):
        request = engine.submit_embeddings(prompt, max_new_tokens=TOKENS)
        engine.step()
        gpu.wait(device)
        start = time.perf_counter()
        while engine.step():
            pass
        gpu.wait(device)
        figures.append((time.perf_counter() - start) * 1e3 / (TOKENS - 2))
    values = scores(model, prompt, request.token_ids)
    return _row(name, figures[1:], values)


def first_token(model, size: str, name: str) -> dict:
    """The first token of a turn, from the decoded image."""
    images = mini_prop.images(ttft.COUNT, size)
    chat = ttft.Chat(ttft.Ours(model), images, name.split()[1])
    for _ in range(2):
        chat.first_token(time.perf_counter)
    figures = [
        chat.first_token(time.perf_counter)[0] * 1e3 for _ in range(REPEATS)
    ]
    turns, image = chat.next()
    stored = chat.side.likelihood(turns, image)
    fresh = ttft.Ours(model).likelihood(turns, image)
    return _row(name, figures, (stored, fresh))


def caption(model, size: str, device: str, name: str) -> dict:
    """Captions of many images, all of one length."""
    from minigpt4.generation.engine import Engine

    samples = mini_prop.samples(
        [generation.QUESTION] * IMAGES,
        [None] * IMAGES,
        mini_prop.images(IMAGES, size),
    )
    collator = model.collator(training=False)
    figures = []
    for _ in range(3):
        engine = Engine(model, SLOTS)
        gpu.wait(device)
        start = time.perf_counter()
        requests = [
            engine.submit(
                collator.tokenize(sample),
                sample.images,
                max_new_tokens=CAPTION,
            )
            for sample in samples
        ]
        while engine.step():
            pass
        gpu.wait(device)
        figures.append(IMAGES / (time.perf_counter() - start))
    data = model.data_preprocessor(collator(samples[-1:]), False)
    with torch.no_grad():
        (prompt,) = model.embed_inputs(data['images'], data['inputs'])
    values = scores(model, prompt, requests[-1].token_ids)
    return _row(name, figures[1:], values)


def measure(
    name: str, size: str = 'vicuna-7b', device: str = 'cuda'
) -> list[dict]:
    """The rows of a name."""
    names = [row for row in GOALS if row.split()[0] == name]
    if device == 'cuda' and not torch.cuda.is_available():
        return [
            gpu.no_gpu(row, GOALS[row][0], **GOALS[row][1]) for row in names
        ]
    model = mini_prop.build_random(size, device, mini_prop.weights('tiny'))
    generation.prepare_llm(model.decoder.llm, model.decoder.tokenizer)
    rows = []
    for row in names:
        if name == 'decode-b1':
            rows.append(decode(model, device, row))
        elif name == 'ttft-h200':
            rows.append(first_token(model, size, row))
        else:
            rows.append(caption(model, size, device, row))
    return rows


if __name__ == '__main__':
    gpu.main(measure, ['decode-b1', 'ttft-h200', 'caption-h200'])
