# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Generation by transformers' own ``generate``.

It is used for beam search, and for LLMs that do not run on KV slots. Each
sequence ends by itself: at end of text, or where its text holds a stop string,
whatever the tokens of that string are (LLaMA has two spellings of ``###``).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from .logprobs import TokenLogprob, token_logprobs
from .request import Answer

_MIN_TAIL = 16  # the fewest last tokens that are searched
_REPLACEMENT = '\ufffd'  # what a tokenizer gives for an incomplete character


class StopStringCriteria(StoppingCriteria):
    """Ends each sequence of a batch once its text holds a stop string.

    The official criterion ends a batch only when all its sequences hold the
    stop tokens at the same step (MiniGPT-4 issue 533).

    Args:
        tokenizer: The LLM's tokenizer.
        stop: The stop strings.
        min_new_tokens: This number of first tokens is not searched.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], min_new_tokens: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.min_new_tokens = min_new_tokens
        # each byte of a character may be a token
        longest = 4 * max(map(len, self.stop), default=0)
        self._tail = _MIN_TAIL + longest

    def __call__(
        self, input_ids: Tensor, scores: Tensor | None, **kwargs: Any
    ) -> Any:
        """``(B, generated)`` ids to ``(B,)`` bool."""
        searched = input_ids[:, self.min_new_tokens :]
        texts = self.tokenizer.batch_decode(searched[:, -self._tail :])
        done = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)


@torch.no_grad()
def hf_generate(
    llm: Any,
    tokenizer: Any,
    embeddings: Tensor,
    attention_mask: Tensor,
    stop: Sequence[str] = (),
    max_new_tokens: int = 300,
    min_new_tokens: int = 0,
    seed: int | None = None,
    stop_ids: Sequence[int] | None = None,
    logprobs: int | None = None,
    **settings: Any,
) -> list[Answer]:
    """Answer a left-padded batch of prompts; the default is greedy decoding.

    Args:
        llm: The Hugging Face causal LM.
        tokenizer: Its tokenizer.
        embeddings: ``(B, T, hidden_size)`` of the prompts.
        attention_mask: ``(B, T)``, 0 at pads.
        stop: Stop strings.
        max_new_tokens: The most tokens of an answer.
        min_new_tokens: The fewest tokens of an answer. Until then neither end
            of text nor a stop string ends it.
        seed: Seed of the sampling; None continues torch's generator.
        stop_ids: Ids of the tokens that end an answer; None for the
            tokenizer's end of text.
        logprobs: See :class:`~.sampling_params.SamplingParams`; not with
            beams.
        settings: Further fields of transformers' ``GenerationConfig``, e.g.
            ``num_beams=5`` or ``do_sample=True, temperature=0.7``.

    Returns:
        One answer for each prompt.
    """
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if stop_ids is None:
        stop_ids = [] if eos is None else [eos]
    if pad is None:
        pad = 0 if eos is None else eos
    settings.setdefault('do_sample', False)
    if min_new_tokens:
        settings['min_new_tokens'] = min_new_tokens
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=pad,
        output_logits=logprobs is not None,
        return_dict_in_generate=True,
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
                [StopStringCriteria(tokenizer, stop, min_new_tokens)]
            )
            if stop
            else None,
        )
    answers = [
        _to_answer(ids, tokenizer, stop, stop_ids, pad, min_new_tokens)
        for ids in output.sequences.tolist()
    ]
    if logprobs is None:
        return answers
    recorded: list[list[TokenLogprob]] = [[] for _ in answers]
    for step, scores in enumerate(output.logits):
        in_answer = [step < len(answer.token_ids) for answer in answers]
        found = token_logprobs(
            scores,
            output.sequences[:, step].tolist(),
            [logprobs if inside else None for inside in in_answer],
        )
        for row, logprob in zip(recorded, found, strict=True):
            row += [logprob] if logprob is not None else []
    return [
        replace(answer, logprobs=row)
        for answer, row in zip(answers, recorded, strict=True)
    ]


def _to_answer(
    ids: list[int],
    tokenizer: Any,
    stop: Sequence[str],
    stop_ids: Sequence[int],
    pad: int,
    min_new_tokens: int,
) -> Answer:
    """Cut the output of one prompt at its end; padding follows there."""

    def stop_index(length: int) -> int:
        """Index of the first stop string in the first tokens, or -1."""
        text = decode(ids[:length])
        found = (text.find(string, search_start) for string in stop)
        return min((index for index in found if index >= 0), default=-1)

    def decode(token_ids: list[int]) -> str:
        return tokenizer.decode(
            token_ids,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    length = next((i for i, x in enumerate(ids) if x in stop_ids), len(ids))
    finished = length < len(ids)
    ids = ids[:length]
    while ids and ids[-1] == pad and len(ids) > min_new_tokens:
        ids = ids[:-1]
    search_start = len(decode(ids[:min_new_tokens]).rstrip(_REPLACEMENT))
    text = decode(ids)
    end = stop_index(len(ids))
    if end >= 0:
        finished = True
        # beams of transformers 4 may continue for a token or two
        while stop_index(len(ids) - 1) >= 0:
            ids = ids[:-1]
        text = text[:end]
    return Answer(text.strip(), ids, finished)
