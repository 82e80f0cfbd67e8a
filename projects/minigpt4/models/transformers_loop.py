# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers by transformers' own ``generate``, for what the engine leaves to it.

These are beams, and LLMs whose keys and values do not fit into slots. What is
ours is where a row ends: at EOS, or where its text holds a stop string,
however the tokenizer spelled it (LLaMA has two spellings of ``###``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .generation import Answer

_TAIL = 16  # tokens that hold any stop string


class StopTexts(StoppingCriteria):
    """Ends each row by itself once its text holds a stop string.

    The official criterion ends a batch only when all rows hold the stop
    tokens at the same step (MiniGPT-4 issue 533).
    """

    def __init__(self, tokenizer, stop: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)

    def __call__(self, input_ids: Tensor, scores, **kwargs) -> Tensor:
        """``(B, generated)`` ids to ``(B,)`` bool."""
        texts = self.tokenizer.batch_decode(input_ids[:, -_TAIL:])
        done = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)


@torch.no_grad()
def generate(
    llm,
    tokenizer,
    embeddings: Tensor,
    attention_mask: Tensor,
    stop: Sequence[str] = (),
    max_new_tokens: int = 300,
    seed: int | None = None,
    **settings,
) -> list[Answer]:
    """Answer a left-padded batch of prompts, greedily unless told otherwise.

    Args:
        llm: The Hugging Face causal LM.
        tokenizer: Its tokenizer.
        embeddings: ``(B, T, hidden_size)`` of the prompts.
        attention_mask: ``(B, T)``, 0 at pads.
        stop: Texts that end an answer.
        max_new_tokens: The most tokens of an answer.
        seed: Of drawing; None goes on with torch's generator.
        settings: Further fields of transformers' ``GenerationConfig``, e.g.
            ``num_beams=5`` or ``do_sample=True, temperature=0.7``.

    Returns:
        An answer for each row.
    """
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if pad is None:
        pad = 0 if eos is None else eos
    settings.setdefault('do_sample', False)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=pad,
        **settings,
    )
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        output = llm.generate(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList(
                [StopTexts(tokenizer, stop)]
            )
            if stop
            else None,
        )
    return [_answer(row, tokenizer, stop, eos, pad) for row in output.tolist()]


def _answer(
    ids: list[int], tokenizer, stop: Sequence[str], eos: int | None, pad: int
) -> Answer:
    """Cut one row at its end; what follows there is padding."""
    finished = eos is not None and eos in ids
    if eos is not None and finished:
        ids = ids[: ids.index(eos)]
    while ids and ids[-1] == pad:
        ids = ids[:-1]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    ends = [text.find(mark) for mark in stop if mark in text]
    if ends:
        finished = True
        # beams of transformers 4 may go on for a token or two
        while any(mark in tokenizer.decode(ids[:-1]) for mark in stop):
            ids = ids[:-1]
        text = text[: min(ends)]
    return Answer(text.strip(), ids, finished)
