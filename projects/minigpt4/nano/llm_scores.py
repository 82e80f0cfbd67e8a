# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the nano LLM answers when a scene is given as words.

No image takes part, so these scores are what its projection can reach at
most.
"""

import random
from typing import Any

import torch
from torch import Tensor

from . import grammar, wordings
from .metric import NanoMetric
from .world import sample_scene

_BATCH = 100
_NEW_TOKENS = 80


def score_llm(
    llm: Any,
    tokenizer: Any,
    scenes: int = 500,
    noise: float = 0.0,
    seed: int = 0,
    reworded: bool = False,
) -> dict[str, float]:
    """Score the answers about held-out scenes that are given as words.

    Args:
        llm: The ``LlamaForCausalLM``, on the CPU.
        tokenizer: Its ``SentencePieceProcessor``.
        scenes: Number of held-out scenes; one question of each task and
            scene.
        noise: Standard deviation of the noise on the embeddings of the
            scene's words, in standard deviations of all embeddings.
        seed: Seed of scenes, questions and noise.
        reworded: Ask in the other wordings of :mod:`.wordings`, typed in the
            ways of users.

    Returns:
        The scores of :class:`NanoMetric`, and ``advertise``.
    """
    rng = random.Random(f'text {seed}')
    generator = torch.Generator().manual_seed(seed)
    records, prompts = [], []
    for number in range(scenes):
        scene = sample_scene(rng, held_out=True)
        words = tokenizer.encode(grammar.scene_text(scene, rng))
        for task in grammar.TASKS:
            pair = grammar.question(task, scene, rng)
            if pair is None:
                continue
            asked, answer = pair
            if reworded:
                asked = wordings.reword(task, asked, rng)
                asked = wordings.retype(asked, rng)
            records.append(
                dict(
                    id=f'{number}-{task}',
                    task=task,
                    answer=answer,
                    scene=scene.to_dict(),
                )
            )
            start = [1, *tokenizer.encode('###Human: <Img>')]
            end = tokenizer.encode(f'</Img> {asked} ###Assistant: ')
            prompts.append((start, words, end))
    embeddings = llm.get_input_embeddings()
    spread = float(embeddings.weight.detach().std())
    metric = NanoMetric()
    with torch.inference_mode():
        for first in range(0, len(prompts), _BATCH):
            group = [
                _embed(embeddings, parts, noise * spread, generator)
                for parts in prompts[first : first + _BATCH]
            ]
            answers = _generate(llm, group)
            for record, ids in zip(
                records[first : first + _BATCH], answers, strict=True
            ):
                text, mark, _ = tokenizer.decode(ids).partition('###')
                metric.process(
                    None,
                    [dict(record, pred_caption=text, finished=bool(mark))],
                )
    return metric.compute_metrics(metric.results)


def _embed(
    embeddings: Any,
    parts: tuple[list[int], list[int], list[int]],
    spread: float,
    generator: torch.Generator,
) -> Tensor:
    """Embed a prompt (T, width), with noise on the words of the scene."""
    start, words, end = (embeddings(torch.tensor(ids)) for ids in parts)
    noise = torch.randn(words.shape, generator=generator)
    return torch.cat([start, words + spread * noise, end])


def _generate(llm: Any, group: list[Tensor]) -> list[list[int]]:
    """Answer prompts greedily; returns the ids of each answer."""
    width = max(map(len, group))
    inputs = torch.zeros(len(group), width, group[0].shape[1])
    mask = torch.zeros(len(group), width, dtype=torch.long)
    for row, prompt in enumerate(group):
        inputs[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return llm.generate(
        inputs_embeds=inputs,
        attention_mask=mask,
        max_new_tokens=_NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    ).tolist()
