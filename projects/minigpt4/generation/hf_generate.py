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

from .request import Answer

_TAIL = 16  # tokens that are searched for a stop string, at least
_LOST = '\ufffd'  # what a tokenizer gives for part of a character


class StopTexts(StoppingCriteria):
    """Ends each row by itself once its text holds a stop string.

    The official criterion ends a batch only when all rows hold the stop
    tokens at the same step (MiniGPT-4 issue 533).

    Args:
        tokenizer: The LLM's tokenizer.
        stop: The stop strings.
        min_new_tokens: So many tokens from the beginning are not searched.
    """

    def __init__(
        self, tokenizer, stop: Sequence[str], min_new_tokens: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.min_new_tokens = min_new_tokens
        # each byte of a character may be a token
        longest = 4 * max(map(len, self.stop), default=0)
        self._tail = _TAIL + longest

    def __call__(self, input_ids: Tensor, scores, **kwargs) -> Tensor:
        """``(B, generated)`` ids to ``(B,)`` bool."""
        searched = input_ids[:, self.min_new_tokens :]
        texts = self.tokenizer.batch_decode(searched[:, -self._tail :])
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
    min_new_tokens: int = 0,
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
        min_new_tokens: The fewest. Before, neither the end of text nor a
            stop string ends the answer.
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
    if min_new_tokens:
        settings['min_new_tokens'] = min_new_tokens
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
                [StopTexts(tokenizer, stop, min_new_tokens)]
            )
            if stop
            else None,
        )
    return [
        _answer(row, tokenizer, stop, eos, pad, min_new_tokens)
        for row in output.tolist()
    ]


def _answer(
    ids: list[int],
    tokenizer,
    stop: Sequence[str],
    eos: int | None,
    pad: int,
    min_new_tokens: int,
) -> Answer:
    """Cut one row at its end; what follows there is padding."""

    def stop_position(length: int) -> int:
        """Where the first stop string of the first tokens begins, or -1."""
        text = decode(ids[:length])
        found = (text.find(mark, searched_from) for mark in stop)
        return min((at for at in found if at >= 0), default=-1)

    def decode(token_ids: list[int]) -> str:
        return tokenizer.decode(token_ids, skip_special_tokens=True)

    finished = eos is not None and eos in ids
    if eos is not None and finished:
        ids = ids[: ids.index(eos)]
    while ids and ids[-1] == pad and len(ids) > min_new_tokens:
        ids = ids[:-1]
    searched_from = len(decode(ids[:min_new_tokens]).rstrip(_LOST))
    text = decode(ids)
    end = stop_position(len(ids))
    if end >= 0:
        finished = True
        # beams of transformers 4 may go on for a token or two
        while stop_position(len(ids) - 1) >= 0:
            ids = ids[:-1]
        text = text[:end]
    return Answer(text.strip(), ids, finished)
