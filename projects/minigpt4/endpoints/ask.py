# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Ask a backend many messages, within a limit of the cost."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from .answers import (
    Answer,
    AnswerBackend,
    AnswerRecorder,
    Request,
    checked_answer,
)
from .cost import Tally, token_counter
from .settings import EndpointSettings


class Answered(NamedTuple):
    """A request with its checked answer and what this cost.

    Attributes:
        request: The request.
        answer: Its answer, see :func:`~.answers.checked_answer`.
        cost_usd: In US dollars; 0 without prices.
        prompt_tokens: As the endpoint counted, else estimated.
        completion_tokens: As ``prompt_tokens``.
    """

    request: Request
    answer: Answer
    cost_usd: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def ask(
    backend: AnswerBackend,
    settings: EndpointSettings,
    tally: Tally,
    requests: Iterator[Request],
) -> Iterator[Answered | None]:
    """Ask all requests, as long as ``max_cost`` permits.

    Args:
        backend: Answers them.
        settings: Prices and limit, and where answers are recorded.
        tally: The cost so far; it is kept up to date.
        requests: What to ask, without reserve. Nothing is asked for those
            whose answer is known.

    Yields:
        Each request with its answer, in any order; the caller stores it
        before it asks for the next one. None at least every half second
        while no answer arrives.

    Raises:
        EndpointError: No request can be answered.
        CostLimitError: The next request might exceed ``max_cost``.
        ValueError: The tokenizer of the settings cannot be loaded.
        OSError: The file of recorded answers cannot be written.
    """
    count, _ = token_counter(settings)
    reserved = _Reserved(tally)
    recorder = None
    if settings.record is not None:
        recorder = AnswerRecorder(settings.record, settings.model)
    try:
        for done in backend.answers(reserved.of(requests)):
            if done is None:
                yield None
                tally.refresh()  # all that was yielded is stored now
                continue
            request, answer = done
            checked = checked_answer(answer)
            if request.known is not None:
                yield Answered(request, checked)
                continue
            # of the whole answer, which is paid for in any case
            tokens = _tokens(request, answer, count)
            cost = tally.settle(
                request.reserved, *tokens, bool(checked.problem)
            )
            if recorder is not None and not checked.problem:
                recorder.add(request, answer)
            yield Answered(request, checked, cost, *tokens)
    finally:
        if recorder is not None:
            recorder.close()
    if reserved.limited:
        raise tally.limit_error()


class _Reserved:
    """Reserves the cost of requests, as long as ``max_cost`` permits.

    Attributes:
        limited: Whether a request was refused because of ``max_cost``.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.limited = False

    def of(self, requests: Iterator[Request]) -> Iterator[Request | None]:
        """Yield each request with its reserve; None while it must wait."""
        for request in requests:
            if request.known is not None:
                yield request
                continue
            most = self._tally.most(request.message)
            while not self._tally.reserve(most):
                if not self._tally.in_work:
                    self.limited = True
                    return
                yield None
            yield request._replace(reserved=most)


def _tokens(
    request: Request, answer: Answer, count: Callable[[str], int]
) -> tuple[int, int]:
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
