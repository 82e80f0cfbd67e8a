# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How an answer is chosen: the settings of a request, and its next token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..deprecated import renamed

NAN_SCORES = (
    "the LLM's scores are not numbers (NaN), so no token can be chosen; check "
    'its weights, and its dtype (float16 overflows in some LLMs).'
)
# below it, scores divided by it may exceed float32
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class SamplingParams:
    """How one answer is generated; greedily unless told otherwise.

    The names and meanings are those of transformers' ``GenerationConfig``.

    Attributes:
        max_new_tokens: The most tokens of the answer.
        min_new_tokens: The fewest tokens of the answer, at most
            ``max_new_tokens``. Before, no end of text is chosen and no stop
            text ends the answer; one that is written is part of its text.
        do_sample: Whether tokens are drawn; else the likeliest is taken.
        temperature: Divides the scores before drawing; at least
            ``MIN_TEMPERATURE``.
        top_k: Draw from so many of the likeliest tokens; 0 from all.
        top_p: Draw from the likeliest tokens of this probability together.
        repetition_penalty: Divides the scores of tokens of the answer.
        seed: Of the drawing; None takes one from torch's generator.
        stop: Further texts that end the answer.
        num_beams: Beams; above 1 the answer comes as a whole.
        length_penalty: With beams: exponent of the length.
    """

    max_new_tokens: int = 300
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    num_beams: int = 1
    length_penalty: float = 1.0

    @classmethod
    def of(cls, *settings: Mapping) -> 'SamplingParams':
        """Settings from mappings, later ones over earlier ones.

        Raises:
            ValueError: A setting is unknown or out of its range.
        """
        merged: dict = {}
        for given in settings:
            merged.update(given)
        known = [field.name for field in fields(cls)]
        unknown = [name for name in merged if name not in known]
        if unknown:
            raise ValueError(
                f'unknown generation setting {", ".join(unknown)}; expected '
                f'one of {", ".join(known)}.'
            )
        stop = merged.get('stop')
        if stop is None:
            stop = ()
        if isinstance(stop, Sequence):  # else the check says so
            merged['stop'] = (stop,) if isinstance(stop, str) else tuple(stop)
        out = cls(**merged)
        out._check()
        return out

    def of_transformers(self) -> dict:
        """The settings as ``GenerationConfig`` and ``generate`` take them."""
        drawing = ('temperature', 'top_k', 'top_p') if self.do_sample else ()
        beams = ('length_penalty',) if self.num_beams > 1 else ()
        names = (
            'max_new_tokens',
            'do_sample',
            'repetition_penalty',
            'num_beams',
            'seed',
            *drawing,
            *beams,
        )
        out = {name: getattr(self, name) for name in names}
        if self.min_new_tokens:
            out['min_new_tokens'] = self.min_new_tokens
        return out

    def _check(self) -> None:
        def is_int(value) -> bool:
            return isinstance(value, int) and not isinstance(value, bool)

        def is_number(value) -> bool:
            return is_int(value) or isinstance(value, float)

        rules = (
            ('max_new_tokens', 'an integer above 0', is_int, lambda x: x > 0),
            ('min_new_tokens', 'an integer from 0', is_int, lambda x: x >= 0),
            (
                'temperature',
                f'above 0, at least {MIN_TEMPERATURE}; for greedy answers '
                'set do_sample=False',
                is_number,
                lambda x: MIN_TEMPERATURE <= x < 1e6,
            ),
            ('top_k', 'an integer from 0', is_int, lambda x: x >= 0),
            ('top_p', 'above 0, up to 1', is_number, lambda x: 0 < x <= 1),
            (
                'repetition_penalty',
                'above 0',
                is_number,
                lambda x: 0 < x < 1e6,
            ),
            ('num_beams', 'an integer above 0', is_int, lambda x: x > 0),
            ('length_penalty', 'a number', is_number, lambda x: abs(x) < 1e6),
            (
                'seed',
                'an integer of 64 bits or None',
                lambda x: x is None or is_int(x),
                lambda x: x is None or -(2**63) <= x < 2**63,
            ),
            (
                'stop',
                'texts that are not empty',
                lambda x: isinstance(x, tuple),
                lambda x: all(isinstance(mark, str) and mark for mark in x),
            ),
            (
                'do_sample',
                'True or False',
                lambda x: isinstance(x, bool),
                lambda x: True,
            ),
        )
        for name, expected, has_type, in_range in rules:
            value = getattr(self, name)
            if not (has_type(value) and in_range(value)):
                raise ValueError(f'{name} is {value!r}; expected {expected}.')
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f'min_new_tokens is {self.min_new_tokens}, more than '
                f'max_new_tokens {self.max_new_tokens}; lower the one or '
                'raise the other.'
            )


class Sampler:
    """Chooses the next token of one answer.

    The same seed gives the same answer, whatever else is in the batch.

    Args:
        settings: Of the answer.
        eos: The end-of-text token.
        device: Where the scores are.

    Attributes:
        plain: Whether it takes the highest score and nothing else, so that
            the caller may do so for a whole batch.
    """

    def __init__(
        self, settings: SamplingParams, eos: int | None, device: torch.device
    ) -> None:
        steps: list = []
        if settings.repetition_penalty != 1:
            steps.append(
                RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
            )
        if settings.min_new_tokens and eos is not None:
            steps.append(
                MinNewTokensLengthLogitsProcessor(
                    0, settings.min_new_tokens, eos, device=str(device)
                )
            )
        self.plain = not steps and not settings.do_sample
        self._sample = settings.do_sample
        if settings.do_sample:
            if settings.temperature != 1:
                steps.append(TemperatureLogitsWarper(settings.temperature))
            if settings.top_k:
                steps.append(TopKLogitsWarper(settings.top_k))
            if settings.top_p < 1:
                steps.append(TopPLogitsWarper(settings.top_p))
            seed = settings.seed
            if seed is None:
                seed = int(torch.randint(2**62, ()))
            self._generator = torch.Generator(device).manual_seed(seed)
        self._steps: Any = LogitsProcessorList(steps)

    def __call__(self, scores: Tensor, token_ids: list[int]) -> int:
        """The next token.

        Args:
            scores: ``(vocab_size,)`` logits.
            token_ids: The answer so far.

        Raises:
            ValueError: The logits are no numbers.
        """
        said = torch.tensor([token_ids], dtype=torch.long).to(scores.device)
        scores = self._steps(said, scores[None].float())
        if not self._sample:
            return int(scores.argmax())
        probabilities = scores.softmax(-1)
        if probabilities.isnan().any():
            raise ValueError(NAN_SCORES)
        return int(
            torch.multinomial(probabilities, 1, generator=self._generator)
        )


__getattr__ = renamed(__name__, {'Settings': 'SamplingParams'})
