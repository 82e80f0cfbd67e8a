# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The step ``repair``: a language model corrects the descriptions.

Section 3.2 of the paper uses ChatGPT. Each answer passes the guard of
:mod:`.repair_guard`, because a language model that never sees the image may
add what is not in it.
"""

from collections.abc import Iterator
from typing import Any

from .ledger import Ledger, Result
from .pipeline import StepItem
from .repair_answers import (
    Answer,
    AnswerRecorder,
    RecordedAnswers,
    RepairBackend,
    Request,
    checked_answer,
)
from .repair_cost import StoredCost, Tally, token_counter
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
        backend: RepairBackend | None = None,
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
        count, _ = token_counter(self._settings)
        recorder = None
        if self._settings.record is not None:
            recorder = AnswerRecorder(
                self._settings.record, self._settings.model
            )
        requests = _Requests(
            self._settings, self.tally, self._earlier_answers()
        )
        try:
            for done in backend.answers(requests.of(first, items)):
                if done is None:
                    yield None
                    # all that was yielded is stored now
                    self.tally.refresh()
                    continue
                request, answer = done
                checked = checked_answer(answer)
                cost, prompt_tokens, completion_tokens = 0.0, 0, 0
                if request.known is None:
                    # of the whole answer, which is paid for in any case
                    prompt_tokens, completion_tokens = _tokens(
                        request, answer, count
                    )
                    cost = self.tally.settle(
                        request.reserved,
                        prompt_tokens,
                        completion_tokens,
                        bool(checked.problem),
                    )
                    if recorder is not None and not checked.problem:
                        recorder.add(request, answer)
                result = self._result(request, checked)
                result.details.update(
                    cost_usd=cost,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                )
                yield result
        finally:
            if recorder is not None:
                recorder.close()
        if requests.limited:
            raise self.tally.limit_error()

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


class _Requests:
    """Makes requests of items, as long as ``max_cost`` permits.

    Attributes:
        limited: Whether an item was refused because of ``max_cost``.
    """

    def __init__(
        self, settings: RepairSettings, tally: Tally, earlier: _EarlierAnswers
    ) -> None:
        self._settings, self._tally = settings, tally
        self._earlier = earlier
        self.limited = False

    def of(
        self, first: StepItem, items: Iterator[StepItem]
    ) -> Iterator[Request | None]:
        """Yield the request of each item; None while it must wait."""
        item: StepItem | None = first
        while item is not None:
            message = self._settings.message(item.text)
            known = Answer(item.text)  # without text nothing is asked
            if item.text.strip():
                found = self._earlier.find(item)
                if found is None:
                    reserved = self._tally.most(message)
                    while not self._tally.reserve(reserved):
                        if not self._tally.in_work:
                            self.limited = True
                            return
                        yield None
                    yield Request(item, message, reserved)
                    item = next(items, None)
                    continue
                known = found
            yield Request(item, message, known=known)
            item = next(items, None)


def create_backend(settings: RepairSettings) -> RepairBackend:
    """Create the backend of the settings.

    Raises:
        ImportError: A package is not installed.
        ValueError: A setting is invalid, or the model cannot be built.
        OSError: A file cannot be read.
    """
    if settings.backend == 'openai':
        from .repair_openai import OpenAIBackend

        return OpenAIBackend(settings)
    if settings.backend == 'model':
        from .describe import shared_model
        from .repair_model import ModelBackend

        model = shared_model(
            settings.model,
            settings.pretrained,
            settings.device,
            settings.template,
        )
        return ModelBackend(model, settings)
    return RecordedAnswers(str(settings.recorded), settings.model)


def _unchanged() -> dict[str, Any]:
    return dict(
        flags=[],
        cost_usd=0.0,
        prompt_tokens=0,
        completion_tokens=0,
        changed=False,
    )


def _tokens(request: Request, answer: Answer, count: Any) -> tuple[int, int]:
    """Return the tokens of an answer, estimated where not counted."""
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if answer.problem and prompt is None:
        return 0, 0  # nothing was generated
    if prompt is None:
        prompt = count(request.message)
    if completion is None:
        # a tokenizer refuses half a character
        completion = count(answer.text.encode(errors='replace').decode())
    return prompt, completion
