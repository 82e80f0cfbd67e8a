# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Choose the next tokens of requests from the scores of the LLM."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .sampling_params import SamplingParams

NAN_SCORES = (
    "the LLM's scores are not numbers (NaN), so no token can be chosen; check "
    'its weights, and its dtype (float16 overflows in some LLMs).'
)


class Sampler:
    """Chooses the next tokens of one answer.

    The same seed gives the same answer, whatever the other requests are.

    Args:
        params: The sampling parameters.
        stop_ids: Ids of the tokens that end the answer.
        device: Device of the scores.

    Attributes:
        is_greedy: Whether it takes the highest score and changes no score.
        processors: transformers' logits processors, in order.
    """

    def __init__(
        self,
        params: SamplingParams,
        stop_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        processors: list = []
        if params.repetition_penalty != 1:
            processors.append(
                RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
            )
        if params.min_new_tokens and stop_ids:
            processors.append(
                MinNewTokensLengthLogitsProcessor(
                    0,
                    params.min_new_tokens,
                    list(stop_ids),
                    device=str(device),
                )
            )
        self.is_greedy = not processors and not params.do_sample
        self._do_sample = params.do_sample
        if params.do_sample:
            if params.temperature != 1:
                processors.append(TemperatureLogitsWarper(params.temperature))
            if params.top_k:
                processors.append(TopKLogitsWarper(params.top_k))
            if params.top_p < 1:
                processors.append(TopPLogitsWarper(params.top_p))
            seed = params.seed
            if seed is None:
                seed = int(torch.randint(2**62, ()))
            self._generator = torch.Generator(device).manual_seed(seed)
        self.processors = processors

    def process(self, scores: Tensor, token_ids: Sequence[int]) -> Tensor:
        """Apply the processors to logits.

        Args:
            scores: ``(1, vocab_size)`` logits, float32.
            token_ids: The answer so far.

        Returns:
            ``(1, vocab_size)`` processed logits.
        """
        ids = torch.tensor([token_ids], dtype=torch.long).to(scores.device)
        # transformers' LogitsProcessorList would read the signature of each
        # processor at each token: 6 % of the time of the nano model.
        for processor in self.processors:
            scores = processor(ids, scores)
        return scores

    def __call__(self, scores: Tensor, token_ids: Sequence[int]) -> int:
        """Choose the next token.

        Args:
            scores: ``(vocab_size,)`` logits.
            token_ids: The answer so far.

        Raises:
            ValueError: The logits are NaN.
        """
        scores = self.process(scores[None].float(), token_ids)
        if not self._do_sample:
            return int(scores.argmax())
        probabilities = scores.softmax(-1)
        if probabilities.isnan().any():
            raise ValueError(NAN_SCORES)
        return int(
            torch.multinomial(probabilities, 1, generator=self._generator)
        )


def choose_tokens(
    scores: Tensor,
    samplers: Sequence[Sampler],
    answers: Sequence[Sequence[int]],
) -> list['int | Exception']:
    """Choose the next token of each request.

    Greedy requests share one argmax.

    Args:
        scores: ``(B, vocab_size)`` logits.
        samplers: The samplers of the requests.
        answers: Token ids of their answers so far.

    Returns:
        The token ids; in place of one that could not be chosen, the error.
    """
    highest = scores.argmax(-1, keepdim=True)  # of NaN, where there is one
    is_number = (~scores.gather(-1, highest).isnan()).flatten().tolist()
    greedy = highest.flatten().tolist()
    chosen: list[int | Exception] = []
    for i, (sampler, answer) in enumerate(zip(samplers, answers, strict=True)):
        try:
            if not is_number[i]:
                raise ValueError(NAN_SCORES)
            if sampler.is_greedy:
                chosen.append(greedy[i])
            else:
                chosen.append(sampler(scores[i], answer))
        except Exception as error:
            chosen.append(error)
    return chosen
