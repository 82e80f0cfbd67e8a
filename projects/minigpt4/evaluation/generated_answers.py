# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers of a model to prompts about images, stored one by one."""

import argparse
import functools
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..captioning.answers import answer_many
from ..captioning.batch import CaptionTask, TaskAnswer
from ..captioning.image_sources import find_images
from ..loading import load_model
from ..utils.errors import one_line, printable
from ..utils.json_files import read_json_lines
from ..utils.progress import progress_bar
from .result_folder import ResultFolder, file_digest

ANSWERS_FILE = 'answers.jsonl'
_NAMED = 5  # errors on the terminal


class AskedImage(NamedTuple):
    """A prompt about an image.

    Attributes:
        image: Path of the image.
        prompt: The prompt.
        fields: Further fields of the row of its answer.
    """

    image: str
    prompt: str
    fields: dict[str, Any]


def folder_images(folder: Path) -> list[str]:
    """The images of a folder and its subfolders, sorted by name.

    Args:
        folder: The folder, or a ``.txt`` file with the path of an image in
            each line.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It has no image.
    """
    if not (folder.suffix == '.txt' and folder.is_file()):
        require_image_folder(folder)
    return [
        entry.image for entry in find_images([str(folder)], recursive=True)
    ]


def require_image_folder(folder: Path) -> None:
    """Refuse what is no folder.

    Raises:
        FileNotFoundError: It is a file, or does not exist.
    """
    if not folder.is_dir():
        found = 'is not a folder' if folder.exists() else 'does not exist'
        raise FileNotFoundError(
            f'{folder} {found}; give the folder of the images as --images.'
        )


def model_settings(
    args: argparse.Namespace,
    asked: Sequence[AskedImage],
    generation: Mapping[str, Any],
) -> dict[str, Any]:
    """What the answers depend on, for ``settings.json``.

    Args:
        args: The options of the model and ``settings``, the sampling
            parameters that were given.
        asked: All prompts.
        generation: The sampling parameters of the protocol.
    """
    content = [[os.path.basename(a.image), a.prompt, a.fields] for a in asked]
    return dict(
        model=args.model,
        pretrained=args.pretrained and file_digest(Path(args.pretrained)),
        generation={**generation, **args.settings},
        count=len(asked),
        asked=hashlib.blake2b(
            json.dumps(content).encode(), digest_size=8
        ).hexdigest(),
    )


def generate_answers(
    args: argparse.Namespace,
    asked: Sequence[AskedImage],
    results: ResultFolder,
    name: str = 'answer',
) -> None:
    """Answer the prompts that have no row yet.

    Each row has ``number``, the fields of the prompt, ``image``, ``prompt``
    and the answer with ``finished`` and ``tokens``, or an ``error``. Rows are
    sorted afterwards.

    Args:
        args: The options of the model, ``slots``, ``workers``, ``quiet``.
        asked: All prompts.
        results: The folder; its settings have ``generation``.
        name: The field of the answer.

    Raises:
        ValueError: The model or a sampling parameter cannot be used.
        ModelFailureError: The model fails on every request.
        OSError: A file cannot be read or written.
    """
    done = {row['number'] for row in results.rows}
    tasks = [
        CaptionTask(item.image, item.prompt, id=(number, item))
        for number, item in enumerate(asked)
        if number not in done
    ]

    def row(answer: TaskAnswer) -> dict[str, Any]:
        number, item = answer.task.id
        return dict(
            number=number, **item.fields, image=item.image, prompt=item.prompt
        ) | answer_fields(answer, name)

    settings = results.settings['generation']
    store_answers(args, tasks, len(asked), settings, row, results)
    results.sort(lambda row: row['number'])


def store_answers(
    args: argparse.Namespace,
    tasks: Sequence[CaptionTask],
    total: int,
    settings: Mapping[str, Any],
    row: Callable[[TaskAnswer], dict[str, Any]],
    results: ResultFolder,
) -> None:
    """Answer prompts, and store the row of each answer when it ends.

    Args:
        args: The options of the model, ``slots``, ``workers``, ``quiet``.
        tasks: The prompts; without any the model is not loaded.
        total: The number of all prompts, also of those that have a row.
        settings: The sampling parameters.
        row: Makes the row of an answer.
        results: Stores the rows.

    Raises:
        ValueError: The model or a sampling parameter cannot be used.
        ModelFailureError: The model fails on every request.
        OSError: A file cannot be read or written.
    """
    if not tasks:
        return
    ended = answer_many(
        functools.partial(
            load_model, args.model, args.pretrained, args.device
        ),
        tasks,
        args.slots,
        args.workers,
        dict(settings),
        reproducible=True,
    )
    with progress_bar(visible=not args.quiet) as bar:
        task = bar.add_task(
            'answering', total=total, completed=total - len(tasks)
        )
        for answers in ended:
            results.add(list(map(row, answers)))
            bar.advance(task, len(answers))


def answer_fields(answer: TaskAnswer, name: str) -> dict[str, Any]:
    """The part of a row that is the answer, or why there is none.

    Args:
        answer: The answer.
        name: The field of its text.
    """
    if answer.error is not None:
        return dict(error=one_line(answer.error))
    return {
        name: answer.text,
        'finished': answer.finished,
        'tokens': answer.tokens,
    }


def answer_errors(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Number, image and error of each row that has no answer."""
    return [
        {name: row[name] for name in ('number', 'image', 'error')}
        for row in rows
        if 'error' in row
    ]


def print_errors(errors: Sequence[Mapping[str, Any]]) -> None:
    """Print the first errors and the number of the others.

    Args:
        errors: Rows with ``error``, and one of ``file``, ``image``,
            ``image_id`` and ``number``.
    """
    for error in errors[:_NAMED]:
        names = (error.get(key) for key in ('file', 'image', 'image_id'))
        place = next(
            (name for name in names if name is not None),
            f'answer {error.get("number")}',
        )
        print(printable(f'failed: {place}: {error["error"]}'), file=sys.stderr)
    if len(errors) > _NAMED:
        print(f'failed: {len(errors) - _NAMED:,} more', file=sys.stderr)


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    """Read the rows of a file of a result folder, by their numbers.

    Raises:
        ValueError: The file does not exist or is damaged.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f'{folder} has no {name}; run the protocol first.')
    rows = [row for _, row in read_json_lines(path)]
    if not all(
        isinstance(row, dict) and type(row.get('number')) is int
        for row in rows
    ):
        raise ValueError(
            f'{path} has a line without "number", a whole number; the command '
            'that made the folder writes it again with --overwrite.'
        )
    return sorted(rows, key=lambda row: row['number'])
