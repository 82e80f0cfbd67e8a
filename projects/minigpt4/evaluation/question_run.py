# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of the protocols that ask questions: answers, stored one by one.

Several processes may share the questions (``--part 2/4``), each with its own
file of answers in one folder. A run answers what no file of the folder has.
"""

import argparse
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from typing import Any

from mmengine.structures import BaseDataElement

from ..actors.chunks import run_chunks
from ..captioning.answers import CHUNK, answer_many, chunks_of
from ..captioning.batch import CaptionTask, TaskAnswer
from ..generation.engine import Engine
from ..generation.sampler import NAN_SCORES
from ..images.read import load_image
from ..loading import load_model, quiet_logs
from ..models import MiniGPT4
from ..prompts import Turn
from ..utils.errors import one_line
from ..utils.progress import progress_bar
from ..utils.signals import raise_on_signals
from .question_protocols import QUESTION_PROTOCOLS
from .question_scores import (
    answers_file,
    print_question_scores,
    question_summary,
    read_answers,
)
from .questions import (
    AskedQuestion,
    QuestionProtocol,
    QuestionSet,
    check_prompt,
    read_questions,
)
from .result_folder import ResultFolder, file_digest

_NOTE = 'what was answered is kept with -o, and the same command continues'


def run_questions(args: argparse.Namespace) -> int:
    """Answer the questions of a protocol and score the answers.

    Args:
        args: The options of ``minigpt4 eval NAME``.

    Returns:
        0; 1 if a question could not be answered.

    Raises:
        ValueError: A file, an option or the result folder is invalid.
        OSError: A file cannot be read or written.
        ModelFailureError: The model fails on every request.
    """
    protocol = QUESTION_PROTOCOLS[args.protocol]
    prompt = protocol.prompt if args.prompt is None else args.prompt
    check_prompt(prompt)
    with raise_on_signals(_NOTE), quiet_logs(not args.quiet):
        questions = read_questions(
            protocol,
            protocol.items(args.questions, args.question_texts),
            args.questions,
            args.images,
            prompt,
            args.limit,
        )
        settings = _settings(args, protocol, prompt, questions)
        if args.overwrite and args.out is not None and args.out.is_dir():
            _remove_parts(args.out)
        with ResultFolder(
            args.out,
            protocol.name,
            settings,
            answers_file(args.part),
            args.overwrite,
        ) as results:
            _answer(args, protocol, questions, results)
            results.sort(lambda row: row['number'])
            rows = results.rows
            if args.out is not None:
                rows = read_answers(args.out)
            summary = question_summary(
                protocol, rows, settings, args.scoring, args.bootstrap
            )
            summary['image_folder'] = os.path.abspath(args.images)
            if not summary['missing']:
                results.write_summary(summary)
        print_question_scores(protocol, summary, questions, args.out)
    return 1 if summary['errors'] else 0


def answer_questions(
    load: Callable[[], MiniGPT4],
    asked: Sequence[tuple[int, AskedQuestion]],
    slots: int,
    workers: int,
    settings: dict[str, Any],
) -> Iterator[list[dict[str, Any]]]:
    """Answer questions by generation.

    Two runs submit the same requests at the same steps of the engine, so
    that their answers are equal to the bit.

    Args:
        load: Loads the model.
        asked: The questions with their numbers.
        slots: Requests that are generated at the same time.
        workers: Threads that decode images.
        settings: Sampling parameters.

    Returns:
        An iterator over the rows of the questions that ended in one step.
    """
    tasks = (
        CaptionTask(item.file, item.prompt, id=(number, item))
        for number, item in asked
    )
    return (
        [_answer_row(answer) for answer in answers]
        for answers in answer_many(
            load, tasks, slots, workers, settings, reproducible=True
        )
    )


def rank_choices(
    load: Callable[[], MiniGPT4],
    asked: Sequence[tuple[int, AskedQuestion]],
    workers: int,
) -> Iterator[list[dict[str, Any]]]:
    """Compute how likely each choice of each question is.

    Each chunk begins with an empty prefix cache, so that the bits do not
    depend on the number of actors.

    Args:
        load: Loads the model.
        asked: The questions with their numbers.
        workers: Threads that decode images.

    Returns:
        An iterator over one row at a time, with ``log_likelihoods``: the mean
        of each choice, in nats per token.
    """
    make = functools.partial(_make_ranker, load, workers)
    return ([row] for _, row in run_chunks(make, chunks_of(asked, CHUNK)))


def _make_ranker(
    load: Callable[[], MiniGPT4], workers: int
) -> Callable[[Sequence[tuple[int, AskedQuestion]]], Iterator[dict[str, Any]]]:
    return functools.partial(_rank_chunk, load(), workers)


def _rank_chunk(
    model: MiniGPT4,
    workers: int,
    asked: Sequence[tuple[int, AskedQuestion]],
) -> Iterator[dict[str, Any]]:
    engine = Engine(model, slots=1)
    collator = model.collator(training=False)
    ahead = 4 * workers
    with ThreadPoolExecutor(workers) as pool:
        futures = {
            number: pool.submit(load_image, item.file, model.image_size)
            for number, item in asked[:ahead]
        }
        try:
            for place, (number, item) in enumerate(asked):
                if place + ahead < len(asked):
                    later, following = asked[place + ahead]
                    futures[later] = pool.submit(
                        load_image, following.file, model.image_size
                    )
                row = _row(number, item)
                try:
                    image = futures.pop(number).result()
                    sample = BaseDataElement(
                        images=[image], turns=[Turn(item.prompt)]
                    )
                    row['log_likelihoods'] = engine.rank(
                        collator.tokenize(sample),
                        sample.images,
                        item.question.choices,
                    )
                    if not all(map(isfinite, row['log_likelihoods'])):
                        raise ValueError(NAN_SCORES)
                except (OSError, ValueError) as error:
                    row.pop('log_likelihoods', None)
                    row['error'] = one_line(error)
                yield row
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _settings(
    args: argparse.Namespace,
    protocol: QuestionProtocol,
    prompt: str,
    questions: QuestionSet,
) -> dict[str, Any]:
    """What the answers depend on."""
    settings: dict[str, Any] = dict(
        model=args.model,
        pretrained=args.pretrained and file_digest(args.pretrained),
        questions=file_digest(args.questions),
        asked=_digest(questions),
        prompt=prompt,
        limit=args.limit,
        count=len(questions.asked),
        skipped_records=len(questions.skipped),
        without_image=len(questions.without_image),
        method=args.method,
    )
    if args.method == 'generate':
        settings['generation'] = {**protocol.generation, **args.settings}
    return settings


def _digest(questions: QuestionSet) -> str:
    """Digest what is asked: 16 hexadecimal digits.

    The file of the questions does not state it alone: the texts may be in
    another file, and a question is asked only if its image exists. Rows have
    numbers of these questions.
    """
    digest = hashlib.blake2b(digest_size=8)
    for item in questions.asked:
        row = [*item.question, item.prompt]
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _remove_parts(folder: Path) -> None:
    """Remove the answers of parts of another run."""
    for path in folder.glob('answers-*-of-*.jsonl'):
        path.unlink()


def _answer(
    args: argparse.Namespace,
    protocol: QuestionProtocol,
    questions: QuestionSet,
    results: ResultFolder,
) -> None:
    """Answer the questions of this part that have no row yet."""
    index, parts = args.part or (1, 1)
    own = list(enumerate(questions.asked))[index - 1 :: parts]
    stored = results.rows if args.out is None else read_answers(args.out)
    done = {row['number'] for row in stored}
    missing = [pair for pair in own if pair[0] not in done]
    if not missing:
        return
    load = functools.partial(
        load_model, args.model, args.pretrained, args.device
    )
    if args.method == 'generate':
        settings = {**protocol.generation, **args.settings}
        batches = answer_questions(
            load, missing, args.slots, args.workers, settings
        )
    else:
        batches = rank_choices(load, missing, args.workers)
    with progress_bar(visible=not args.quiet) as bar:
        task = bar.add_task(
            'questions', total=len(own), completed=len(own) - len(missing)
        )
        for rows in batches:
            results.add(rows)
            bar.advance(task, len(rows))


def _row(number: int, item: AskedQuestion) -> dict[str, Any]:
    question = item.question
    row: dict[str, Any] = dict(
        number=number,
        id=question.id,
        image=question.image,
        file=os.path.basename(item.file),
        prompt=item.prompt,
        truth=question.truth,
    )
    if question.choices:
        row['choices'] = list(question.choices)
    return row


def _answer_row(answer: TaskAnswer) -> dict[str, Any]:
    number, item = answer.task.id
    row = _row(number, item)
    if answer.error is not None:
        return row | dict(error=one_line(answer.error))
    return row | dict(
        answer=answer.text, finished=answer.finished, tokens=answer.tokens
    )
