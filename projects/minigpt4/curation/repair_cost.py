# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What repairs cost: an estimate before the run, and a tally during it."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..utils.errors import UserError
from .ledger import Ledger
from .pipeline import PlannedStep
from .repair_settings import RepairSettings

CHARACTERS_PER_TOKEN = 4  # of English text, in an estimate
_TEMPLATE_TOKENS = 64  # that a chat template may add, in a reserve
_UNKNOWN_TOKENS = 100  # of a text that does not exist yet
_MILLION = 1_000_000


class CostLimitError(UserError):
    """The next request might exceed ``max_cost``."""


class Estimate(NamedTuple):
    """An estimate of what repairs need.

    Attributes:
        requests: How many texts are to be repaired.
        prompt_tokens: Of all messages.
        completion_tokens: Of all answers, if each is as long as its draft.
        cost_usd: In US dollars; None without prices.
        counted: How the tokens were counted, for the user.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    counted: str

    def __str__(self) -> str:
        cost = (
            'no prices are set'
            if self.cost_usd is None
            else f'about {format_usd(self.cost_usd)}'
        )
        return (
            f'repair: {self.requests:,} requests, about '
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
    settings: RepairSettings, prompt_tokens: int, completion_tokens: int
) -> float | None:
    """Return the cost of tokens in US dollars; None without prices."""
    if settings.price_prompt is None or settings.price_completion is None:
        return None
    return (
        prompt_tokens * settings.price_prompt
        + completion_tokens * settings.price_completion
    ) / _MILLION


def token_counter(
    settings: RepairSettings,
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


def estimate(
    settings: RepairSettings, drafts: Iterable[str], unknown: int = 0
) -> Estimate:
    """Estimate what the repair of drafts needs.

    Args:
        settings: The settings.
        drafts: The texts to repair; empty ones are not sent.
        unknown: Texts that do not exist yet; each counts as the mean of the
            drafts, or as 100 tokens without drafts.
    """
    count, counted = token_counter(settings)
    requests = completion_tokens = 0
    if settings.backend in ('openai', 'model'):
        for draft in filter(str.strip, drafts):
            requests += 1
            completion_tokens += min(count(draft), settings.max_tokens)
        mean = completion_tokens / requests if requests else _UNKNOWN_TOKENS
        if unknown:
            completion_tokens += round(unknown * mean)
            requests += unknown
            counted += (
                f', {mean:.0f} for each of {unknown:,} texts that do not '
                'exist yet'
            )
    prompt = count(settings.message(''))
    prompt_tokens = requests * prompt + completion_tokens
    cost = None
    if settings.backend == 'openai':
        cost = cost_usd(settings, prompt_tokens, completion_tokens)
    return Estimate(requests, prompt_tokens, completion_tokens, cost, counted)


def estimate_run(
    ledger: Ledger, planned: Sequence[PlannedStep], settings: RepairSettings
) -> Estimate:
    """Estimate what the repair step of a run needs.

    Args:
        ledger: The ledger.
        planned: All steps of the run.
        settings: The settings of the repair step.
    """
    index = next(i for i, s in enumerate(planned) if s.step.name == 'repair')
    step = planned[index]
    done = {result.image for result in ledger.results(step.number)}
    if step.previous is None:
        return estimate(settings, [], ledger.num_images - len(done))
    drafts = [
        result.text
        for result in ledger.results(step.previous)
        if result.status == 'ok' and result.image not in done
    ]
    dropped = sum(ledger.counts(s.number)['dropped'] for s in planned[:index])
    unknown = ledger.num_images - dropped - len(done) - len(drafts)
    return estimate(settings, drafts, max(unknown, 0))


class StoredCost:
    """The cost of all repairs that a ledger has, failures included.

    Args:
        ledger: The ledger; None has no repairs.
    """

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger
        self._sum = 0.0
        self._last = 0

    def __call__(self) -> float:
        """Return the cost in US dollars; reads only what is new."""
        if self._ledger is not None:
            new, self._last = self._ledger.sum_details(
                'repair', 'cost_usd', self._last
            )
            self._sum += new
        return self._sum


class Tally:
    """What repairs have cost so far, and what those in work may cost.

    Args:
        settings: Prices and limit.
        stored: Returns the cost of all repairs that the ledger has.

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
        settings: RepairSettings,
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
        """Cost of all repairs in the ledger, with those of this run."""
        return self._before + self._since

    def refresh(self) -> None:
        """Read what the ledger has, for other processes may have added.

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
            f'repairs have cost {format_usd(self.total_usd)}, and the next '
            f'request might exceed max_cost = {format_usd(limit)}; what was '
            'repaired is kept, raise max_cost to continue.'
        )

    def __str__(self) -> str:
        failed = f'{self.failed:,} failed, ' if self.failed else ''
        return (
            f'repair: {self.answered:,} answers, {failed}'
            f'{self.prompt_tokens:,} prompt tokens, '
            f'{self.completion_tokens:,} tokens of answers, '
            f'{format_usd(self.run_usd)} (with earlier runs '
            f'{format_usd(self.total_usd)})'
        )
