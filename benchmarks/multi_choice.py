# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Choose between 4 answers to a question about an image by likelihood.

Ours computes image and question once; the official ``multi_select`` computes
both again with each answer. It divides the sum of losses by the length of
prompt and answer; here both sides divide by the answer's own tokens.

    python benchmarks/multi_choice.py SIDE FOLDER
"""

import sys
from collections.abc import Callable
from pathlib import Path

import generation
import harness
import mini_prop
import torch

CANDIDATES = mini_prop.captions(4, 1, 4)
QUESTION = '<Img><ImageHere></Img> Which of these is in the image?'
COUNT = 64  # images, more than repetitions


def _ours(folder: Path, images: torch.Tensor) -> Callable:
    from minigpt4.generation.engine import Engine

    model = generation.our_model(folder)
    engine = Engine(model)
    collator = model.collator(training=False)

    def rank(i: int) -> list[float]:
        (sample,) = mini_prop.samples([QUESTION], [None], images[i : i + 1])
        prompt = collator.tokenize(sample)
        return engine.rank(prompt, sample.images, CANDIDATES)

    return rank


def _official(folder: Path, images: torch.Tensor) -> Callable:
    model = generation.official_model(folder)
    images = generation.normalised(images)
    prompts = [f'###Human: {QUESTION} ###Assistant: ']

    @torch.no_grad()
    def rank(i: int) -> list[float]:
        return [
            -model(images[i : i + 1], prompts, [candidate]).item()
            for candidate in CANDIDATES
        ]

    return rank


def build(side: str, folder: Path) -> tuple[Callable, dict]:
    """A worker's work, with a new image each time, and its guard."""
    torch.set_num_threads(1)
    images = mini_prop.images(COUNT, (folder / 'size').read_text())
    rank = dict(ours=_ours, official=_official)[side](folder, images)
    numbers = iter(range(COUNT))
    guard = dict(likelihoods=[rank(next(numbers)) for _ in range(3)])

    def work() -> None:
        rank(next(numbers))

    return work, guard


def measure(repeats: int) -> list[dict]:
    """The row."""
    folder = mini_prop.weights()
    return [
        harness.compare(
            'multi-choice',
            *(
                harness.side(__file__, side, folder)
                for side in ('ours', 'official')
            ),
            'CPU-s/question',
            3,
            peer_name='official multi_select, reimplemented',
            rate=False,
            repeats=min(repeats, COUNT - 3),
        )
    ]


if __name__ == '__main__':
    harness.worker(lambda: build(sys.argv[1], Path(sys.argv[2])), 0)
