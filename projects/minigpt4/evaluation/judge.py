# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A language model as judge: its settings, its answers, yes or no.

Each answer is a row of ``judgements.jsonl`` with its digest, so that such a
file is one of recorded answers too.
"""

import datetime
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from ..endpoints.answers import Request, message_digest
from ..endpoints.ask import ask
from ..endpoints.backends import create_backend
from ..endpoints.cost import Estimate, Tally, cost_usd, token_counter
from ..endpoints.settings import EndpointSettings
from ..utils.progress import progress_bar
from .result_folder import ResultFolder

JUDGEMENTS_FILE = 'judgements.jsonl'
PARSERS = ('first-word', 'exact')
_YES_OR_NO_TOKENS = 2  # in an estimate
_WORD = re.compile(r'[^\W\d_]+')
_AROUND = ' \t\n"\'`*.,:;!'
_OPTIONS = dict(
    backend='--judge',
    base_url='--judge-url',
    model='--judge-model',
    recorded='--judge-answers',
)


class JudgeSettings(EndpointSettings):
    """Who judges, and how an endpoint is asked."""

    task: ClassVar[str] = 'judge'
    plural: ClassVar[str] = 'judgements'
    kept: ClassVar[str] = 'what was judged is kept'

    max_tokens: int = Field(
        default=64,
        ge=1,
        description='the most tokens of an answer; a longer one fails',
    )

    @classmethod
    def option(cls, name: str) -> str:
        """Return how the user gives a setting, for the text of errors."""
        return _OPTIONS.get(name, f'--judge-option {name}')


class JudgeQuestion(NamedTuple):
    """What the judge is asked.

    Attributes:
        key: Identifies it among those of a run.
        message: The message to the judge.
        fields: Further fields of its row.
    """

    key: str
    message: str
    fields: dict[str, Any]


def parse_yes_no(text: str, parser: str = 'first-word') -> str:
    """Read ``'yes'``, ``'no'`` or ``'unparsed'`` from an answer.

    Args:
        text: The answer.
        parser: ``'first-word'``: the first word, in any case; ``'exact'``:
            the whole answer, without the marks around it.

    Raises:
        ValueError: There is no such parser.
    """
    if parser == 'first-word':
        first = _WORD.search(text)
        word = first[0] if first else ''
    elif parser == 'exact':
        word = text.strip(_AROUND)
    else:
        raise ValueError(
            f'parser is {parser!r}; expected one of {", ".join(PARSERS)}.'
        )
    word = word.lower()
    return word if word in ('yes', 'no') else 'unparsed'


def estimate_judgements(
    settings: JudgeSettings, questions: Sequence[JudgeQuestion]
) -> Estimate:
    """Estimate what the answers to questions need.

    Raises:
        ValueError: The tokenizer of the settings cannot be loaded.
    """
    count, counted = token_counter(settings)
    asked = questions if settings.backend != 'recorded' else []
    prompt = sum(count(question.message) for question in asked)
    answers = _YES_OR_NO_TOKENS * len(asked)
    cost = None
    if settings.backend == 'openai':
        cost = cost_usd(settings, prompt, answers)
    return Estimate(len(asked), prompt, answers, cost, counted, settings.task)


def missing_questions(
    questions: Sequence[JudgeQuestion],
    rows: Sequence[Mapping[str, Any]],
    model: str,
) -> list[JudgeQuestion]:
    """The questions without a stored answer of the judge."""
    done = {row['digest'] for row in rows if not row.get('problem')}
    return [
        q for q in questions if message_digest(q.message, model) not in done
    ]


def judge(
    settings: JudgeSettings,
    questions: Sequence[JudgeQuestion],
    results: ResultFolder,
    quiet: bool,
) -> Tally | None:
    """Ask what has no answer yet; store each answer when it arrives.

    An answer that cannot be used is stored with its ``problem`` and its
    cost; the next run asks again.

    Returns:
        The cost; None if nothing was asked.

    Raises:
        EndpointError: The endpoint refuses or fails on every request.
        CostLimitError: The next request might exceed ``max_cost``.
        ImportError: A package of the backend is not installed.
        ValueError: A setting of the backend is invalid.
        OSError: A file cannot be read or written.
    """
    missing = missing_questions(questions, results.rows, settings.model)
    if not missing:
        return None
    backend = create_backend(settings)
    tally = Tally(settings, lambda: total_cost(results.rows))
    requests = (Request(question, question.message) for question in missing)
    with progress_bar(visible=not quiet) as bar:
        task = bar.add_task(
            'judging',
            total=len(questions),
            completed=len(questions) - len(missing),
        )
        for done in ask(backend, settings, tally, requests):
            if done is None:
                continue
            question: JudgeQuestion = done.request.item
            row = dict(
                key=question.key,
                digest=message_digest(question.message, settings.model),
                **question.fields,
                answer=done.answer.text,
                model=settings.model,
                date=datetime.datetime.now(datetime.UTC).date().isoformat(),
                prompt_tokens=done.prompt_tokens,
                completion_tokens=done.completion_tokens,
                cost_usd=done.cost_usd,
            )
            if done.answer.problem:
                row['problem'] = done.answer.problem
            results.add([row])
            bar.advance(task)
    return tally


def total_cost(rows: Sequence[Mapping[str, Any]]) -> float:
    """Cost of all rows in US dollars, failures included."""
    return sum(row['cost_usd'] for row in rows)


def usable(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row with an answer of each key, sorted by key."""
    last = {row['key']: row for row in rows if not row.get('problem')}
    return [last[key] for key in sorted(last)]


def unanswered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each key that has no answer, sorted by key."""
    done = {row['key'] for row in usable(rows)}
    last = {row['key']: row for row in rows if row['key'] not in done}
    return [last[key] for key in sorted(last)]


def judge_facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Name, dates, tokens and cost of the judge, for ``summary.json``."""
    dates = sorted({row['date'] for row in rows})
    return dict(
        model=', '.join(sorted({row['model'] for row in rows})),
        first_date=dates[0] if dates else None,
        last_date=dates[-1] if dates else None,
        prompt_tokens=sum(row['prompt_tokens'] for row in rows),
        completion_tokens=sum(row['completion_tokens'] for row in rows),
        cost_usd=round(total_cost(rows), 6),
    )


def decisions(
    rows: Sequence[dict[str, Any]], parser: str
) -> tuple[dict[str, str], Counter[str]]:
    """The decision of each key, and how often each occurs."""
    found = {
        row['key']: parse_yes_no(row['answer'], parser) for row in usable(rows)
    }
    return found, Counter(found.values())
