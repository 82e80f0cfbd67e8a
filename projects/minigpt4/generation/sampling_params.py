# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The sampling parameters of a request, with their defaults and ranges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..deprecated import renamed

# scores divided by less may exceed the range of float32
MIN_TEMPERATURE = 1e-5
MAX_LOGPROBS = 20  # OpenAI's limit


@dataclass(frozen=True)
class SamplingParams:
    """How one answer is generated; the default is greedy decoding.

    Names and meanings are those of transformers' ``GenerationConfig``.

    Attributes:
        max_new_tokens: The most tokens of the answer.
        min_new_tokens: The fewest tokens of the answer, at most
            ``max_new_tokens``. Until then the end-of-text token is not chosen
            and no stop string ends the answer; one that is generated is part
            of its text.
        do_sample: Whether tokens are sampled; else the likeliest is taken.
        temperature: Divides the scores before sampling; at least
            ``MIN_TEMPERATURE``.
        top_k: Sample from this number of likeliest tokens; 0 from all.
        top_p: Sample from the likeliest tokens whose probabilities add up to
            this.
        repetition_penalty: Divides the scores of tokens of the answer.
        seed: Seed of the sampling; None draws one from torch's generator.
        stop: Stop strings in addition to those of the template.
        num_beams: Beams; above 1 the answer comes in one piece.
        length_penalty: Exponent of the length, with beams.
        logprobs: Record the log-probability of each token, and this number of
            likeliest tokens at its position (0 for none); None records
            nothing. See :class:`~.logprobs.TokenLogprob`. Not with beams.
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
    logprobs: int | None = None

    @classmethod
    def of(cls, *settings: Mapping) -> 'SamplingParams':
        """Merge mappings of parameters, later ones over earlier ones.

        Raises:
            ValueError: A parameter is unknown or out of its range.
        """
        merged: dict = {}
        for mapping in settings:
            merged.update(mapping)
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
        if isinstance(stop, Sequence):  # other types fail the check below
            merged['stop'] = (stop,) if isinstance(stop, str) else tuple(stop)
        params = cls(**merged)
        params._check()
        return params

    def to_transformers(self) -> dict:
        """Return the arguments of :func:`~.hf_generate.hf_generate`."""
        sampling = ('temperature', 'top_k', 'top_p') if self.do_sample else ()
        beams = ('length_penalty',) if self.num_beams > 1 else ()
        names = (
            'max_new_tokens',
            'do_sample',
            'repetition_penalty',
            'num_beams',
            'seed',
            *sampling,
            *beams,
        )
        arguments = {name: getattr(self, name) for name in names}
        if self.min_new_tokens:
            arguments['min_new_tokens'] = self.min_new_tokens
        if self.logprobs is not None:
            arguments['logprobs'] = self.logprobs
        return arguments

    def _check(self) -> None:
        def is_int(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool)

        def is_number(value: Any) -> bool:
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
                lambda x: all(isinstance(text, str) and text for text in x),
            ),
            (
                'logprobs',
                f'an integer from 0 to {MAX_LOGPROBS} or None',
                lambda x: x is None or is_int(x),
                lambda x: x is None or 0 <= x <= MAX_LOGPROBS,
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
        if self.logprobs is not None and self.num_beams > 1:
            raise ValueError(
                f'logprobs is {self.logprobs} with num_beams '
                f'{self.num_beams}; expected one of them: beam search records '
                'no log-probabilities.'
            )


__getattr__ = renamed(__name__, {'Settings': 'SamplingParams'})
