# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The choices of a request (``n``): several answers to one prompt."""

from collections.abc import Mapping
from typing import Any

from ...chat.prompt import ChatPrompt
from ...generation.request import GenerationRequest
from ...generation.sampling_params import SamplingParams
from ...generation.worker import EngineWorker


def submit_choices(
    worker: EngineWorker,
    prompt: ChatPrompt,
    settings: Mapping[str, Any],
    choices: int,
) -> list[GenerationRequest]:
    """Submit a prompt to the engine, once for each choice.

    The choices share the prompt's images, and K and V of its tokens. Without
    sampling all choices are equal, so one is generated and stands for all.

    Args:
        worker: Runs the engine.
        prompt: The prompt.
        settings: Sampling parameters over the model's own.
        choices: The number of choices.

    Returns:
        The request of each choice.

    Raises:
        QueueFull: Too many requests wait; none was submitted.
        RuntimeError: The worker is closed.
        ValueError: The prompt is too long.
    """
    params = SamplingParams.of(worker.engine.model.generation, settings)
    number = choices if params.do_sample else 1
    requests: list[GenerationRequest] = []
    try:
        for choice in range(number):
            seed = choice_seed(params.seed, choice)
            requests.append(
                worker.submit(
                    prompt.tokenized,
                    prompt.images,
                    **{**settings, 'seed': seed},
                )
            )
    except Exception:
        for request in requests:
            request.cancel()
        raise
    return requests if number == choices else requests * choices


def choice_seed(seed: int | None, choice: int) -> int | None:
    """The seed of a choice: the seed of the request plus its index.

    So the first choice is the answer of a request without ``n``, and choice
    ``i`` that of a request with the seed ``seed + i``.

    Args:
        seed: The seed of the request, of 64 bits; None for any.
        choice: The index of the choice.
    """
    if seed is None:
        return None
    return (seed + choice + 2**63) % 2**64 - 2**63
