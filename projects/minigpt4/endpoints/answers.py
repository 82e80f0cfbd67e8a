# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a backend is asked and answers; answers from and to a file."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from ..prompts.text_validation import check_characters
from ..utils.errors import UserError, printable
from ..utils.file_types import read_head
from ..utils.json_files import parse_strict_json
from ..utils.regular_files import open_regular
from ..utils.text_files import encoding_error

# as Qwen3, DeepSeek-R1 and others write before their answer
_REASONING = re.compile(r'\s*<think>(.*?)</think>', re.DOTALL | re.IGNORECASE)


class EndpointError(UserError):
    """The endpoint or the model refuses or fails on every request."""


class Answer(NamedTuple):
    """The answer to a message, or why there is none.

    Attributes:
        text: The text; empty if there is none.
        problem: Why the answer cannot be used, as a sentence; empty if it
            can.
        prompt_tokens: As the endpoint counted; None if it did not.
        completion_tokens: As ``prompt_tokens``.
        endpoint_failed: Whether the problem is one of the endpoint, not of
            this text: many in succession end the run.
        reasoning: What the model wrote before the text; see
            :func:`checked_answer`.
    """

    text: str
    problem: str = ''
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    endpoint_failed: bool = False
    reasoning: str = ''


class Request(NamedTuple):
    """A message to answer.

    Attributes:
        item: What it is about, as the caller knows it.
        message: What to ask.
        reserved: The most that the answer may cost, in US dollars.
        known: The answer, if it is known already: nothing is asked.
    """

    item: Any
    message: str
    reserved: float = 0.0
    known: Answer | None = None


class AnswerBackend(Protocol):
    """Answers messages."""

    def answers(
        self, requests: Iterator[Request | None]
    ) -> Iterator[tuple[Request, Answer] | None]:
        """Yield the answer of each request, in any order.

        None is yielded at least every half second while no answer arrives.

        Args:
            requests: The requests. None means that no further request can
                be given before another answer was yielded.

        Raises:
            EndpointError: No request can be answered. Answers to requests
                that were sent before were yielded.
        """


def checked_answer(answer: Answer) -> Answer:
    """Check the text of an answer, and take its reasoning away.

    A block ``<think>...</think>`` at the start is not part of the text. One
    that is not closed stays, as it is unknown where the text begins; the
    guard flags it.
    """
    if answer.problem:
        return answer
    try:
        check_characters(answer.text, 'the answer')
    except ValueError as error:
        found_half = str(error).partition(';')[0]
        problem = f'{found_half}; the next run asks again.'
        return answer._replace(text='', problem=problem)
    found = _REASONING.match(answer.text)
    if found is None:
        return answer
    text = answer.text[found.end() :].strip()
    problem = '' if text else 'the answer has no text after its reasoning.'
    return answer._replace(
        text=text, problem=problem, reasoning=found[1].strip()
    )


def message_digest(message: str, model: str) -> str:
    """Return the digest by which a recorded answer is found.

    Args:
        message: Prompt and text.
        model: Name of the model.
    """
    content = json.dumps([model, message])
    return hashlib.sha256(content.encode()).hexdigest()


class RecordedAnswers:
    """A backend that takes answers from a JSONL file.

    Each line has ``digest`` (of :func:`message_digest`) and ``answer``. The
    last line with a digest counts.

    Args:
        path: The file.
        model: Name of the model that answered.

    Raises:
        ValueError: A line is no recorded answer.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str, model: str) -> None:
        self._path, self._model = path, model
        self._answers: dict[str, str] = {}
        file_path = Path(os.path.expanduser(path))
        if reason := encoding_error(read_head(file_path)):
            raise ValueError(
                f'{printable(path)} has no recorded answers ({reason}).'
            )
        with open_regular(file_path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    digest, answer = self._parse(line, number)
                    self._answers[digest] = answer

    def _parse(self, line: bytes, number: int) -> tuple[str, str]:
        try:
            record = parse_strict_json(line.decode('utf-8-sig'))
            digest, answer = record['digest'], record['answer']
            if isinstance(digest, str) and isinstance(answer, str):
                return digest, answer
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(
            f'{printable(self._path)}, line {number} is no recorded answer; '
            'expected a JSON object with the texts "digest" and "answer".'
        )

    def answers(
        self, requests: Iterator[Request | None]
    ) -> Iterator[tuple[Request, Answer] | None]:
        """Yield the answer of each request; see :class:`AnswerBackend`."""
        for request in requests:
            if request is None:
                yield None
                continue
            if request.known is not None:
                yield request, request.known
                continue
            answer = self._answers.get(
                message_digest(request.message, self._model)
            )
            if answer is None:
                problem = (
                    f'{printable(self._path)} has no answer of the model '
                    f'{self._model!r} to this prompt and text; record one.'
                )
                yield request, Answer('', problem)
            elif not answer.strip():
                yield request, Answer('', 'the recorded answer is empty.')
            else:
                yield request, Answer(answer.strip())


class AnswerRecorder:
    """Appends answers to a JSONL file that :class:`RecordedAnswers` reads.

    Each line is one write to a file opened for appending, so several
    processes may record into one file.

    Args:
        path: The file; it is created if it does not exist.
        model: Name of the model that answers.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str, model: str) -> None:
        self._model = model
        self._file: BinaryIO = open(  # noqa: SIM115
            os.path.expanduser(path), 'ab', buffering=0
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, request: Request, answer: Answer) -> None:
        """Append an answer."""
        record: dict[str, Any] = dict(
            digest=message_digest(request.message, self._model),
            model=self._model,
            message=request.message,
            answer=answer.text,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        line = json.dumps(record) + '\n'
        self._file.write(line.encode())
