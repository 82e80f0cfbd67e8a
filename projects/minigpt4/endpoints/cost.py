# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What answers cost: an estimate before the run, and a tally during it."""

import math
from collections.abc import Callable
from typing import NamedTuple

from ..utils.errors import UserError
from .settings import EndpointSettings

CHARACTERS_PER_TOKEN = 4  # of English text, in an estimate
_TEMPLATE_TOKENS = 64  # that a chat template may add, in a reserve
_MILLION = 1_000_000


class CostLimitError(UserError):
    """The next request might exceed ``max_cost``."""


class Estimate(NamedTuple):
    """An estimate of what answers need.

    Attributes:
        requests: How many messages are to be answered.
        prompt_tokens: Of all messages.
        completion_tokens: Of all answers, as the caller estimates them.
        cost_usd: In US dollars; None without prices.
        counted: How the tokens were counted, for the user.
        task: What the answers are for.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    counted: str
    task: str

    def __str__(self) -> str:
        cost = (
            'no prices are set'
            if self.cost_usd is None
            else f'about {format_usd(self.cost_usd)}'
        )
        return (
            f'{self.task}: {self.requests:,} requests, about '
            f'{self.prompt_tokens:,} prompt tokens and '
            f'{self.completion_tokens:,} tokens of answers ({self.counted}); '
            f'{cost}'
        )


def format_usd(amount: float) -> str:
    """Format US dollars; small amounts with more digits."""
    if amount >= 1:
        return f'${amount:,.2f}'
    digits = 1 - math.floor(math.log10(amount)) if amount > 0 else 0
    return f'${amount:.{max(digits, 6)}f}'  # two that are not 0


def cost_usd(
    settings: EndpointSettings, prompt_tokens: int, completion_tokens: int
) -> float | None:
    """Return the cost of tokens in US dollars; None without prices."""
    if settings.price_prompt is None or settings.price_completion is None:
        return None
    return (
        prompt_tokens * settings.price_prompt
        + completion_tokens * settings.price_completion
    ) / _MILLION


def token_counter(
    settings: EndpointSettings,
) -> tuple[Callable[[str], int], str]:
    """Return how tokens are counted before a request, and its name.

    Raises:
        ValueError: The tokenizer of the settings cannot be loaded.
    """
    if settings.tokenizer is None:
        return (
            lambda text: -(-len(text) // CHARACTERS_PER_TOKEN),
            f'{CHARACTERS_PER_TOKEN} characters per token',
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            settings.tokenizer, trust_remote_code=False
        )
    except Exception as error:  # of many types, e.g. of a repository
        raise ValueError(
            f'the tokenizer {settings.tokenizer} cannot be loaded; give the '
            'folder of a tokenizer, or none for an estimate from characters.'
        ) from error
    return (
        lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        f'counted with the tokenizer {settings.tokenizer}',
    )


class Tally:
    """What answers have cost so far, and what those in work may cost.

    Args:
        settings: Prices and limit.
        stored: Returns the cost of all answers that are stored.

    Attributes:
        reserved: The most that the requests in work may cost.
        in_work: How many requests are in work.
        answered: Answers of this run.
        failed: Requests of this run without an answer that can be used.
        prompt_tokens: Of this run.
        completion_tokens: Of this run.
        run_usd: Cost of this run.
    """

    def __init__(
        self,
        settings: EndpointSettings,
        stored: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._settings = settings
        self._stored = stored
        self._before = stored()
        self._since = 0.0
        self.reserved = 0.0
        self.in_work = 0
        self.answered = self.failed = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.run_usd = 0.0

    @property
    def total_usd(self) -> float:
        """Cost of all answers that are stored, with those of this run."""
        return self._before + self._since

    def refresh(self) -> None:
        """Read what is stored, for other processes may have added.

        Call it only when all results of this process are stored.
        """
        self._before, self._since = self._stored(), 0.0

    def most(self, message: str) -> float:
        """Return the most that a request may cost.

        A token has at least one byte, and an answer at most ``max_tokens``.
        """
        most_prompt = len(message.encode(errors='replace')) + _TEMPLATE_TOKENS
        return (
            cost_usd(self._settings, most_prompt, self._settings.max_tokens)
            or 0.0
        )

    def reserve(self, amount: float) -> bool:
        """Reserve the cost of a request; False if the limit forbids it."""
        limit = self._settings.max_cost
        if limit is not None:
            if self.total_usd + self.reserved + amount > limit:
                return False
        self.reserved += amount
        self.in_work += 1
        return True

    def settle(
        self,
        amount: float,
        prompt_tokens: int,
        completion_tokens: int,
        failed: bool = False,
    ) -> float:
        """Replace a reserve by the cost of the answer, and return this."""
        self.in_work -= 1
        # sums of floats: without requests nothing is reserved
        self.reserved = self.reserved - amount if self.in_work else 0.0
        cost = cost_usd(self._settings, prompt_tokens, completion_tokens) or 0
        self._since += cost
        self.run_usd += cost
        self.failed += failed
        self.answered += not failed
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        return cost

    def limit_error(self) -> CostLimitError:
        """Return the error of a run that the limit stops."""
        limit = self._settings.max_cost or 0.0
        return CostLimitError(
            f'{self._settings.plural} have cost '
            f'{format_usd(self.total_usd)}, and the next request might exceed '
            f'max_cost = {format_usd(limit)}; {self._settings.kept}, raise '
            'max_cost to continue.'
        )

    def __str__(self) -> str:
        failed = f'{self.failed:,} failed, ' if self.failed else ''
        return (
            f'{self._settings.task}: {self.answered:,} answers, {failed}'
            f'{self.prompt_tokens:,} prompt tokens, '
            f'{self.completion_tokens:,} tokens of answers, '
            f'{format_usd(self.run_usd)} (with earlier runs '
            f'{format_usd(self.total_usd)})'
        )
