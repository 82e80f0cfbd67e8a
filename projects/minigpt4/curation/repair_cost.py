# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What repairs cost: an estimate, and the sum that a ledger has."""

from collections.abc import Iterable, Sequence

from ..endpoints.cost import Estimate, cost_usd, token_counter
from .ledger import Ledger
from .pipeline import PlannedStep
from .repair_settings import RepairSettings

_UNKNOWN_TOKENS = 100  # of a text that does not exist yet


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
    return Estimate(
        requests, prompt_tokens, completion_tokens, cost, counted, 'repair'
    )


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
