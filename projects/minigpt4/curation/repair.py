# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The step ``repair``: a language model corrects the descriptions.

Section 3.2 of the paper uses ChatGPT. Each answer passes the guard of
:mod:`.repair_guard`, because a language model that never sees the image may
add what is not in it.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from ..endpoints.answers import Answer, AnswerBackend, Request
from ..endpoints.ask import ask
from ..endpoints.backends import create_backend
from ..endpoints.cost import Tally
from .ledger import Ledger, Result
from .pipeline import StepItem
from .repair_cost import StoredCost
from .repair_guard import RepairGuard
from .repair_settings import RepairSettings
from .reviews import text_digest

_DIGEST_DIGITS = 16  # hexadecimal, of a draft in the details of its repair


class RepairStep:
    """The step; see :class:`~.pipeline.Step`.

    Args:
        settings: The settings.
        backend: Answers the messages; None is that of the settings, which is
            created when the first draft arrives.

    Attributes:
        tally: Costs of the run; None before :meth:`run`.

    Raises:
        OSError: A file of the settings cannot be read.
    """

    name = 'repair'

    def __init__(
        self,
        settings: RepairSettings,
        backend: AnswerBackend | None = None,
    ) -> None:
        self.settings: dict[str, Any] = settings.key_settings()
        self.tally: Tally | None = None
        self._settings = settings
        self._ledger: Ledger | None = None
        self._backend = backend
        self._guard = RepairGuard(settings.guard, settings.prompt)

    def use_ledger(self, ledger: Ledger) -> None:
        """Take the ledger with the costs and answers of earlier runs."""
        self._ledger = ledger

    def run(self, items: Iterator[StepItem]) -> Iterator[Result | None]:
        """Repair texts; see :meth:`.pipeline.Step.run`.

        Raises:
            EndpointError: The endpoint refuses or fails on every request.
            CostLimitError: The next request might exceed ``max_cost``.
            ImportError: A package of the backend is not installed.
            ValueError: A setting of the backend is invalid.
            OSError: A file cannot be read or written.
        """
        if self._settings.backend == 'none' and self._backend is None:
            for item in items:
                yield Result(item.image.id, 'ok', item.text, _unchanged())
            return
        first = next(items, None)
        if first is None:
            return  # no model is loaded for nothing
        backend = self._backend or create_backend(self._settings)
        self.tally = Tally(self._settings, StoredCost(self._ledger))
        requests = _requests(
            self._settings, self._earlier_answers(), chain([first], items)
        )
        for done in ask(backend, self._settings, self.tally, requests):
            if done is None:
                yield None
                continue
            result = self._result(done.request, done.answer)
            result.details.update(
                cost_usd=done.cost_usd,
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
            )
            yield result

    def _result(self, request: Request, answer: Answer) -> Result:
        """Return the result of an answer after the guard, without costs."""
        image, draft = request.item.image.id, request.item.text
        if answer.problem:
            return Result(image, 'failed', answer.problem, {})
        details = _unchanged()
        if not draft.strip():
            return Result(image, 'ok', draft, details)
        details['draft_digest'] = text_digest(draft)[:_DIGEST_DIGITS]
        if answer.reasoning:
            details['reasoning'] = answer.reasoning
        flags = self._guard.flags(draft, answer.text)
        details['flags'] = [
            dict(reason=flag.reason, text=flag.text) for flag in flags
        ]
        actions = {flag.action for flag in flags}
        text = answer.text
        if 'reject' in actions or 'fail' in actions:
            details['answer'] = text
            text = draft
        if 'fail' in actions:
            reasons = '; '.join(f.text for f in flags if f.action == 'fail')
            return Result(image, 'failed', reasons, details)
        details['changed'] = text != draft
        return Result(image, 'ok', text, details)

    def _earlier_answers(self) -> '_EarlierAnswers':
        return _EarlierAnswers(self._ledger, self.settings['request'])


class _EarlierAnswers:
    """Answers to the same messages, stored under other guard settings.

    Args:
        ledger: The ledger.
        settings: What an answer depends on.
    """

    def __init__(
        self, ledger: Ledger | None, settings: dict[str, Any]
    ) -> None:
        self._ledger = ledger
        self._steps = (
            []
            if ledger is None
            else [
                number
                for number, _, name, stored in ledger.steps()
                if name == RepairStep.name
                and stored.get('request') == settings
            ]
        )

    def find(self, item: StepItem) -> Answer | None:
        """Return the answer to a draft; None if it was never asked."""
        digest = text_digest(item.text)[:_DIGEST_DIGITS]
        for step in reversed(self._steps):
            assert self._ledger is not None
            for result in self._ledger.results(step, [item.image.id]):
                if result.details.get('draft_digest') == digest:
                    details = result.details
                    return Answer(
                        details.get('answer', result.text),
                        reasoning=details.get('reasoning', ''),
                    )
        return None


def _requests(
    settings: RepairSettings,
    earlier: _EarlierAnswers,
    items: Iterable[StepItem],
) -> Iterator[Request]:
    """Yield the request of each item."""
    for item in items:
        message = settings.message(item.text)
        known: Answer | None = Answer(item.text)  # without text: unchanged
        if item.text.strip():
            known = earlier.find(item)
        yield Request(item, message, known=known)


def _unchanged() -> dict[str, Any]:
    return dict(
        flags=[],
        cost_usd=0.0,
        prompt_tokens=0,
        completion_tokens=0,
        changed=False,
    )
