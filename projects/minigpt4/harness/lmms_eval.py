# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Models of this project in lmms-eval, which is an optional package.

lmms-eval imports this module through :mod:`~.lmms_eval_models`; nothing of
this package does.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from loguru import logger

from ..generation.engine import Engine
from ..loading import load_model, quiet_logs
from ..utils.errors import one_line
from ..utils.progress import progress_bar
from .answer_log import AnswerLog
from .answering import (
    Dialogue,
    Outcome,
    ScoreTask,
    answer_dialogues,
    make_prompt,
    score_tasks,
)
from .gen_kwargs import sampling_settings
from .model_arguments import read_arguments
from .prompts import (
    Question,
    question_of_context,
    question_of_messages,
    with_history,
)

_MAX_NAMED = 5  # failed requests that are reported one by one


class Likelihood(tuple, GenerationResult):
    """The likelihood of a text, and whether greedy decoding generates it.

    lmms-eval 0.7.3 turns a pair to the text ``'(0.5, True)'``, with which its
    multiple-choice tasks fail. It keeps the ``text`` of a generation result
    as it is.
    """

    token_counts = None

    def __init__(self, pair: tuple[float, bool]) -> None:
        """The pair is the content of the tuple."""

    @property
    def text(self) -> 'Likelihood':
        """What lmms-eval takes as the answer."""
        return self

    @staticmethod
    def strip() -> str:
        """No text, so that the response cache does not store the pair.

        It would return it as a list, which fails as above.
        """
        return ''


class SimpleModel(lmms):
    """A model for tasks that give a text and a list of images.

    Args:
        batch_size: The most requests that are generated at the same time.
        device: The device; None is the GPU of this process, if there is one.
        max_batch_size: Not used: requests join and leave the batch one by
            one.
        arguments: See :func:`~.model_arguments.read_arguments`.

    Attributes:
        arguments: The arguments, checked.
        model: The model.
        failed: Number of failed requests of each task.

    Raises:
        ValueError: An argument is unknown or has a wrong value, or the model
            cannot be built.
        OSError: A file is missing or cannot be read.
    """

    is_simple = True

    def __init__(
        self,
        batch_size: Any = None,
        device: Any = None,
        max_batch_size: Any = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.arguments = read_arguments(batch_size, device, **arguments)
        self._rank = int(os.environ.get('RANK', 0))
        self._world_size = int(os.environ.get('WORLD_SIZE', 1))
        if self._world_size > 1:
            from accelerate import Accelerator

            # starts the group of processes, before datasets are loaded
            self.accelerator = Accelerator()
        with quiet_logs():
            self.model = load_model(
                self.arguments.model,
                self.arguments.checkpoint,
                self.arguments.device or _device_of_process(),
            )
        self.failed: Counter[str] = Counter()
        self._log = AnswerLog(self.arguments.answers, self.model, self._rank)
        if len(self._log):
            logger.info(
                f'{len(self._log)} answers are in {self.arguments.answers}; '
                'those of the same prompts are used again.'
            )

    @property
    def batch_size(self) -> int:
        """The most requests that are generated at the same time."""
        return self.arguments.slots

    @property
    def device(self) -> torch.device:
        """The device of the LLM."""
        return self.model.decoder.llm.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Generate an answer to each request; '' where that fails.

        Raises:
            ValueError: A task has a setting that is not supported.
            ModelFailureError: The model fails on every request.
        """
        return self._answer(requests, self._one_round, self._gen_kwargs, '')

    def generate_until_multi_round(
        self, requests: Sequence[Any]
    ) -> list[list[str]]:
        """Generate the answers of all rounds of each request.

        The answers of a request that fails are ``['']``.

        Raises:
            ValueError: A task has a setting that is not supported.
            ModelFailureError: The model fails on every request.
        """
        return self._answer(requests, self._all_rounds, self._gen_kwargs, [''])

    def loglikelihood(self, requests: Sequence[Any]) -> list[Likelihood]:
        """Score the text of each request.

        A text ends with the end symbol of the template, as in training.

        Returns:
            For each request the loss or the log-likelihood (see
            ``likelihood`` of :class:`~.model_arguments.ModelArguments`), and
            whether greedy decoding generates this text. A request that fails
            has the worst value.
        """
        # the texts of one document are scored in one pass
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            context, _, _, *place = request.args
            groups.setdefault(json.dumps([context, *place]), []).append(i)
        members = list(groups.values())
        worst = math.inf if self._uses_loss else -math.inf
        results = [Likelihood((worst, False))] * len(requests)
        engine = Engine(self.model, slots=1)
        outcomes = score_tasks(
            engine,
            (self._score_task([requests[i] for i in g]) for g in members),
            self.arguments.workers,
            self._log,
        )
        firsts = [requests[group[0]] for group in members]
        for group, outcome in zip(
            members, self._report(outcomes, firsts), strict=True
        ):
            if outcome.error is not None:
                continue
            for i, (mean, tokens, is_greedy) in zip(
                group, outcome.result, strict=True
            ):
                value = -mean if self._uses_loss else mean * tokens
                results[i] = Likelihood((value, is_greedy))
        return results

    @property
    def _uses_loss(self) -> bool:
        return self.arguments.likelihood == 'loss'

    def _answer(
        self,
        requests: Sequence[Any],
        dialogue_of: Callable[[Any, dict[str, Any]], Dialogue],
        gen_kwargs_of: Callable[[Any], Mapping[str, Any]],
        failed: Any,
    ) -> list[Any]:
        """Answer requests; equal ones of greedy decoding once."""
        settings = []
        for request in requests:
            try:
                settings.append(sampling_settings(gen_kwargs_of(request)))
            except ValueError as error:
                raise ValueError(f'{request.task_name}: {error}') from error
        first: dict[str, int] = {}
        same = [
            first.setdefault(
                f'{i}' if kept['do_sample'] else _identity(request, kept), i
            )
            for i, (request, kept) in enumerate(
                zip(requests, settings, strict=True)
            )
        ]
        chosen = list(first.values())
        results = {}
        outcomes = answer_dialogues(
            Engine(self.model, slots=self.arguments.slots),
            (dialogue_of(requests[i], settings[i]) for i in chosen),
            self.arguments.workers,
            self._log,
        )
        for outcome in self._report(outcomes, [requests[i] for i in chosen]):
            if outcome.error is None:
                results[chosen[outcome.number]] = outcome.result
        return [results.get(i, failed) for i in same]

    def _report(
        self, outcomes: Iterable[Outcome], requests: Sequence[Any]
    ) -> Iterator[Outcome]:
        """Pass outcomes on with progress; at the end, report failed ones."""
        failed: list[tuple[Any, Exception]] = []
        with progress_bar(visible=self.rank == 0) as bar:
            task = bar.add_task('answering', total=len(requests))
            for outcome in outcomes:
                if outcome.error is not None:
                    failed.append((requests[outcome.number], outcome.error))
                bar.advance(task)
                yield outcome
        for request, error in failed[:_MAX_NAMED]:
            logger.warning(
                f'{request.task_name}, document {request.doc_id}: '
                f'{one_line(error)}'
            )
        counts = Counter(request.task_name for request, _ in failed)
        total = Counter(request.task_name for request in requests)
        for name, number in counts.items():
            self.failed[name] += number
            logger.warning(
                f'{number} of {total[name]} requests of {name} failed; their '
                'answers are empty, and the task scores them as such.'
            )

    def _document(self, request: Any) -> Any:
        *_, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _gen_kwargs(self, request: Any) -> Mapping[str, Any]:
        return request.args[1]

    def _question(self, request: Any) -> Question:
        """The question of a request for one answer."""
        context, _, doc_to_visual, *_ = request.args
        return question_of_context(
            context, doc_to_visual(self._document(request))
        )

    def _one_round(self, request: Any, settings: dict[str, Any]) -> Dialogue:
        return (
            yield make_prompt(self.model, self._question(request), settings)
        )

    def _all_rounds(self, request: Any, settings: dict[str, Any]) -> Dialogue:
        question: Question | None = self._question(request)
        earlier: list[tuple[Question, str]] = []
        answers: list[str] = []
        info = None
        while question is not None:
            asked = question
            if self.arguments.history:
                asked = with_history(earlier, question, self.model.template)
            answer = yield make_prompt(self.model, asked, settings)
            earlier.append((question, answer))
            answers.append(answer)
            question, answers, info = self._next_question(
                request, len(earlier), answers, info
            )
        return answers

    def _next_question(
        self, request: Any, round_idx: int, answers: list[str], info: Any
    ) -> tuple[Question | None, list[str], Any]:
        """Ask the task for its next round.

        Returns:
            The question, or None at the end; the answers so far, which the
            task may change; its own information for the round after.
        """
        _, _, _, doc_to_text, *_ = request.args
        visuals, context, is_end, outputs, info = doc_to_text(
            self._document(request),
            previous_output=list(answers),
            round_idx=round_idx,
            previous_round_info=info,
        )
        answers = answers if outputs is None else list(outputs)
        if is_end:
            return None, answers, info
        return question_of_context(context, visuals), answers, info

    def _score_task(self, requests: Sequence[Any]) -> Callable[[], ScoreTask]:
        def load() -> ScoreTask:
            context, _, doc_to_visual, *_ = requests[0].args
            document = self._document(requests[0])
            question = question_of_context(context, doc_to_visual(document))
            candidates = []
            for request in requests:
                target = request.args[1]
                text = target if isinstance(target, str) else target(document)
                # the template has the space before an answer
                candidates.append(str(text).strip())
            return ScoreTask(make_prompt(self.model, question, {}), candidates)

        return load


class ChatModel(SimpleModel):
    """A model for tasks that give messages.

    lmms-eval has generation only for such tasks; likelihoods need
    ``--force_simple``.
    """

    is_simple = False

    def _gen_kwargs(self, request: Any) -> Mapping[str, Any]:
        return request.args[2]

    def _question(self, request: Any) -> Question:
        doc_to_messages = request.args[1]
        return question_of_messages(
            doc_to_messages(self._document(request)), self.model.template
        )

    def _next_question(
        self, request: Any, round_idx: int, answers: list[str], info: Any
    ) -> tuple[Question | None, list[str], Any]:
        messages = request.args[1](
            self._document(request),
            round_idx=round_idx,
            previous_output=list(answers),
            previous_round_info=info,
        )
        if not (isinstance(messages, tuple) and len(messages) == 4):
            return None, answers, info  # a task of one round
        messages, is_end, outputs, info = messages
        if is_end:
            return None, answers, info
        question = question_of_messages(messages, self.model.template)
        return question, answers, info


def _device_of_process() -> str | None:
    """The GPU of one process of several; None for the usual choice."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count or int(os.environ.get('WORLD_SIZE', 1)) < 2:
        return None
    return f'cuda:{int(os.environ.get("LOCAL_RANK", 0)) % count}'


def _identity(request: Any, settings: Mapping[str, Any]) -> str:
    """What makes two requests of one run the same."""
    context, *_ = request.args
    *_, doc_id, task, split = request.args
    return json.dumps(
        [context, doc_id, task, split, settings], sort_keys=True, default=str
    )
