# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tasks of lmms-eval about photographs on this computer.

:func:`write_tasks` fills a folder for ``--include_path``: for each task a
YAML file and a JSON-lines file of documents.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from ..images.image_ids import ImageIds
from ..utils.atomic import make_folder, write_atomically
from ..utils.errors import printable
from ..utils.json_files import read_json_lines
from .yes_no import Negatives, object_questions

_FUNCTIONS = 'minigpt4.harness.task_functions'
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
_LABELS = ('yes', 'no')


class _Function(str):
    """The name of a function, as lmms-eval writes it in YAML."""


class _Dumper(yaml.SafeDumper):
    """A dumper with :class:`_Function`."""


_Dumper.add_representer(
    _Function,
    lambda dumper, name: dumper.represent_scalar(
        '!function', f'{_FUNCTIONS}.{name}'
    ),
)


class TaskData(NamedTuple):
    """A task: its name, its settings and its documents."""

    name: str
    config: dict[str, Any]
    documents: list[dict[str, Any]]


def find_photos(folder: Path) -> list[Path]:
    """List the photographs of a folder by name.

    Raises:
        ValueError: It has none.
        OSError: It cannot be read.
    """
    photos = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES
    )
    if not photos:
        raise ValueError(
            f'{printable(str(folder))} has no photographs; expected files '
            f'ending in {", ".join(_SUFFIXES)}.'
        )
    return photos


def caption_task(
    photos: Sequence[Path], truth: Mapping[str, list[str]], prompt: str
) -> TaskData:
    """A caption of each photograph, scored by CHAIR.

    Args:
        photos: The photographs; those that the truth does not have are
            omitted.
        truth: The classes in each image, by its id.
        prompt: The question; '' is the model's own.
    """
    ids = ImageIds(truth)
    documents = [
        dict(
            photo=str(path), image_id=key, question=prompt, classes=truth[key]
        )
        for path in photos
        if (key := ids.find(path)) is not None
    ]
    return TaskData(
        'photos_caption',
        _generation('caption_results', ('chair_i', 'chair_s'), 60),
        documents,
    )


def yes_no_tasks(
    photos: Sequence[Path], truth: Mapping[str, list[str]], seed: int = 0
) -> list[TaskData]:
    """Questions for objects, one task for each kind of absent objects.

    A last task has the questions of the first one, and takes the likelier of
    the two answers instead of a generated one.
    """
    ids = ImageIds(truth)
    found = ((ids.find(path), path) for path in photos)
    paths = {key: path for key, path in found if key is not None}
    used = {key: truth[key] for key in paths}
    tasks = []
    for kind in get_args(Negatives):
        rows = [
            dict(photo=str(paths[row['image_id']]), **row)
            for row in object_questions(used, kind, seed)
        ]
        tasks.append(_yes_no_task(f'photos_yes_no_{kind}', rows))
    return [*tasks, _choice_task('photos_yes_no_choice', tasks[0].documents)]


def pope_task(file: Path, photos: Sequence[Path]) -> TaskData:
    """The questions of one file of POPE about the photographs that exist.

    Args:
        file: A line for each question: ``question_id``, ``image``, ``text``
            and ``label``. The image may have COCO's name of 2014 or 2017.
        photos: The photographs.

    Raises:
        ValueError: A line has another form, or no photograph is there.
        OSError: The file cannot be read.
    """
    paths = {_number(path.stem): path for path in photos}
    documents = []
    for number, row in read_json_lines(file):
        try:
            image, text = row['image'], row['text']
            label = row['label'].lower()
            path = paths.get(_number(Path(image).stem))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _not_pope(file, number) from error
        if label not in _LABELS or not isinstance(text, str):
            raise _not_pope(file, number)
        if path is not None:
            documents.append(
                dict(
                    photo=str(path),
                    image_id=path.stem,
                    question=text,
                    answer=label,
                )
            )
    if not documents:
        raise ValueError(
            f'none of the images of {printable(str(file))} is in the folder '
            'of photographs; POPE needs images of COCO val2014.'
        )
    return _yes_no_task(f'photos_{file.stem}', documents)


def write_tasks(folder: Path, tasks: Sequence[TaskData]) -> None:
    """Write tasks for ``--include_path``.

    Raises:
        ValueError: A task has no documents.
        OSError: A file cannot be written.
    """
    make_folder(folder)
    for task in tasks:
        if not task.documents:
            raise ValueError(
                f'the task {task.name} has no photograph; expected some whose '
                'ids are in the file of objects.'
            )
        data = folder.absolute() / f'{task.name}.jsonl'
        lines = (json.dumps(row) + '\n' for row in task.documents)
        write_atomically(data, ''.join(lines).encode())
        config = dict(
            task=task.name,
            dataset_path='json',
            dataset_kwargs=dict(data_files=dict(test=str(data))),
            test_split='test',
            **task.config,
            metadata=dict(version=1.0),
        )
        text = yaml.dump(config, Dumper=_Dumper, sort_keys=False)
        write_atomically(folder / f'{task.name}.yaml', text.encode())


def _number(stem: str) -> str:
    """The number at the end of a name of COCO, or the name."""
    last = stem.rpartition('_')[2]
    return str(int(last)) if last.isdecimal() else stem


def _not_pope(file: Path, number: int) -> ValueError:
    return ValueError(
        f'{printable(str(file))}: line {number} is not a question of POPE; '
        'expected {"question_id": ..., "image": ..., "text": ..., "label": '
        '"yes" or "no"}.'
    )


def _yes_no_task(name: str, documents: list[dict[str, Any]]) -> TaskData:
    metrics = ('accuracy', 'precision', 'recall', 'f1', 'yes_ratio')
    config = _generation('yes_no_results', metrics, 16)
    return TaskData(name, config, documents)


def _choice_task(name: str, documents: list[dict[str, Any]]) -> TaskData:
    config = dict(
        output_type='multiple_choice',
        doc_to_visual=_Function('doc_to_visual'),
        doc_to_text='{{question}}',
        doc_to_choice=list(_LABELS),
        doc_to_target='answer',
        metric_list=[
            dict(metric='acc', aggregation='mean', higher_is_better=True)
        ],
    )
    return TaskData(name, config, documents)


def _generation(
    results: str, metrics: Sequence[str], max_new_tokens: int
) -> dict[str, Any]:
    return dict(
        output_type='generate_until',
        doc_to_visual=_Function('doc_to_visual'),
        doc_to_text='{{question}}',
        doc_to_target='',
        generation_kwargs=dict(
            # without "until" the harness stops at an empty line
            until=[],
            max_new_tokens=max_new_tokens,
            do_sample=False,
        ),
        process_results=_Function(results),
        metric_list=[
            dict(
                metric=name,
                aggregation=_Function(name),
                higher_is_better=not name.startswith('chair'),
            )
            for name in metrics
        ],
    )
