# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Exchange texts under review with Label Studio.

Tasks are written in its JSON format with the text as a prediction, together
with the labelling configuration of the project; its export (JSON, not
JSON-MIN) is read back.

Source: the pages "Import pre-annotated data" and "Task format" of the
documentation of Label Studio 1.x.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..utils.atomic import replacing
from ..utils.errors import printable, short_json
from ..utils.json_files import read_json
from ..utils.regular_files import NotRegularFileError
from .added_files import ImageProblem, read_added
from .ledger import LedgerImage
from .review_export import IMAGE_SIDE, flag_lines, image_url
from .review_import import Record
from .review_item import ReviewItem, load_items
from .review_queue import ReviewQueue

MODEL_VERSION = 'minigpt4 curate'
CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <Text name="flags" value="$flags"/>
  <Choices name="decision" toName="image" choice="single" required="true">
    <Choice value="accept"/>
    <Choice value="edit"/>
    <Choice value="reject"/>
  </Choices>
  <TextArea name="text" toName="image" rows="8" editable="true"
    maxSubmissions="1"/>
</View>
"""
_CHUNK = 64  # texts in memory


def config_file(path: Path) -> Path:
    """The file of the labelling configuration next to a file of tasks."""
    return path.with_suffix('.xml')


def write_tasks(
    queue: ReviewQueue,
    ids: Sequence[int],
    path: Path,
    image_prefix: str | None = None,
) -> list[ImageProblem]:
    """Write tasks, and the labelling configuration next to them.

    Files that exist are replaced. An image that is missing, unreadable or no
    longer the one that was added is omitted, and the reviewer reads why.

    Args:
        queue: The texts under review.
        ids: Numbers of their images.
        path: The JSON file.
        image_prefix: URL before the path of each image, e.g.
            ``/data/local-files/?d=`` for Label Studio's local storage; None
            embeds reduced images.

    Returns:
        The problems of the images that are omitted.

    Raises:
        OSError: A file cannot be written.
    """
    problems = []
    with (
        replacing(path) as temporary,
        open(temporary, 'w', encoding='utf-8') as file,
    ):
        file.write('[')
        first = True
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            for item in load_items(queue.ledger, queue.steps, part):
                file.write('\n' if first else ',\n')
                first = False
                url, problem = '', None
                try:
                    url = _url(item.image, image_prefix)
                except ImageProblem as error:
                    problems.append(problem := error)
                file.write(json.dumps(_task(item, url, problem)))
        file.write('\n]\n')
    with replacing(config_file(path)) as temporary:
        Path(temporary).write_text(CONFIG, 'utf-8')
    return problems


def read_annotations(path: 'str | Path') -> list[Record]:
    """Read the decisions of a JSON export of Label Studio.

    Cancelled (skipped) annotations are left as undecided. A task whose text
    was changed and accepted counts as edited.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such export.
    """
    name = printable(str(path))
    try:
        tasks = read_json(str(path), 'a list of tasks')
    except NotRegularFileError:
        raise
    except ValueError as error:
        raise ValueError(
            f'{printable(str(error).removesuffix("."))}; export the project '
            'from Label Studio as JSON.'
        ) from error
    if not isinstance(tasks, list):
        raise ValueError(
            f'{name} is not a list of tasks; export the project from Label '
            'Studio as JSON.'
        )
    if tasks and not any(
        isinstance(task, dict) and 'annotations' in task for task in tasks
    ):
        raise ValueError(
            f'{name} has no task with "annotations"; export the project from '
            'Label Studio as JSON (not as JSON-MIN).'
        )
    return [
        record
        for number, task in enumerate(tasks, 1)
        for record in _records(task, number)
    ]


def _url(image: LedgerImage, prefix: str | None) -> str:
    """The URL of an image.

    Raises:
        ImageProblem: The file is missing, cannot be read, or is not the one
            that was added.
    """
    if prefix is None:
        return image_url(image, IMAGE_SIDE)
    read_added(image)
    return prefix + quote(image.path.lstrip('/'), errors='surrogateescape')


def _task(
    item: ReviewItem, url: str, problem: ImageProblem | None
) -> dict[str, Any]:
    return dict(
        data=dict(
            image=url,
            flags=flag_lines(item, problem) or 'no flags',
            text=item.text,
            image_digest=item.image.digest,
            reviewed=item.digest,
        ),
        predictions=[
            dict(
                model_version=MODEL_VERSION,
                result=[
                    dict(
                        id='text',
                        from_name='text',
                        to_name='image',
                        type='textarea',
                        value=dict(text=[item.text]),
                    )
                ],
            )
        ],
    )


def _records(task: Any, number: int) -> Iterator[Record]:
    place = f'task {number}'
    data = task.get('data') if isinstance(task, dict) else None
    if not isinstance(data, dict) or 'image_digest' not in data:
        yield Record(
            place,
            error='its data has no "image_digest"; import the tasks of '
            '"minigpt4 curate label-studio export" into the project.',
        )
        return
    annotations = task.get('annotations') or []
    if not isinstance(annotations, list):
        yield Record(place, error='"annotations" is not a list.')
        return
    if not annotations:
        yield Record(place)
    for index, annotation in enumerate(annotations, 1):
        where = place
        if len(annotations) > 1:
            where += f', annotation {index}'
        if not isinstance(annotation, dict):
            yield Record(where, error='the annotation is not an object.')
        elif annotation.get('was_cancelled'):
            yield Record(where)
        else:
            yield _record(annotation, data, where)


def _record(
    annotation: dict[str, Any], data: dict[str, Any], place: str
) -> Record:
    decision = text = None
    for result in annotation.get('result') or []:
        value = result.get('value') if isinstance(result, dict) else None
        if not isinstance(value, dict):
            return Record(place, error='a result has no "value".')
        if result.get('from_name') == 'decision':
            decision = value.get('choices')
        elif result.get('from_name') == 'text':
            text = value.get('text')
    if isinstance(decision, list) and len(decision) == 1:
        decision = decision[0]
    if not isinstance(decision, str):
        return Record(
            place,
            error=f'the decision is {short_json(decision)}; expected one '
            'choice.',
        )
    if isinstance(text, list):
        if len(text) > 1:
            return Record(place, error=f'it has {len(text)} texts.')
        text = text[0] if text else None
    if decision == 'accept' and isinstance(text, str):
        if text.strip() and text.strip() != str(data.get('text')).strip():
            decision = 'edit'
    return Record(
        place,
        data['image_digest'],
        data.get('reviewed'),
        _reviewer(annotation.get('completed_by')),
        decision,
        text,
    )


def _reviewer(person: Any) -> str | None:
    """The name of an annotator: an address, or a number."""
    if isinstance(person, dict):
        person = person.get('email') or person.get('id')
    if type(person) is int:
        return f'label-studio-{person}'
    return person if isinstance(person, str) else None
