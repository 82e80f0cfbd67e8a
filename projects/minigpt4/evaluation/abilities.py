# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocol ``abilities``: are requests beyond a description met?

Source: paper section 4.2 and table 1 (arXiv:2304.10592): 25 images of each
task, judged by people. The images are not published.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import printable
from ..utils.json_files import read_json
from .generated_answers import AskedImage, folder_images
from .judge import JudgeQuestion, decisions
from .proportions import share

# table 1, word for word
PROMPTS = {
    'meme': 'Explain why this meme is funny.',
    'recipe': 'How should I make something like this?',
    'advertisement': 'Help me draft a professional advertisement for this.',
    'poem': 'Can you craft a beautiful poem about this image?',
}
# the other sampling parameters are the model's own
GENERATION: dict[str, Any] = dict(do_sample=False, max_new_tokens=300)
IMAGES = 25  # of each task


class Published(NamedTuple):
    """Requests met of 25, from the paper."""

    blip2: int
    minigpt4: int


PUBLISHED = {
    'meme': Published(0, 8),
    'recipe': Published(4, 18),
    'advertisement': Published(1, 19),
    'poem': Published(0, 20),
}
# of this project: the paper has people. The judge sees no image.
JUDGE_PROMPT = (
    'An assistant was given an image, which you cannot see, and this request: '
    '‘{prompt}’ It answered: ‘{answer}’ Does the answer do what the request '
    'asks for, completely and without repeating itself? Only answer yes or '
    'no without any explanation.'
)


def read_tasks(images: Path) -> list[AskedImage]:
    """Read the images of each task.

    Args:
        images: A folder with the folders ``meme``, ``recipe``,
            ``advertisement`` and ``poem``, or a JSON list of ``{"image":
            "a.jpg", "task": "meme"}`` with paths from the folder of the file.

    Returns:
        The requests, by task.

    Raises:
        FileNotFoundError: The path or an image of the list does not exist.
        ValueError: It has no task, or a record is invalid.
    """
    if images.is_dir():
        found = {
            task: folder_images(images / task)
            for task in PROMPTS
            if (images / task).is_dir()
        }
    elif images.exists():
        found = _read_list(images)
    else:
        raise FileNotFoundError(
            f'{images} does not exist; give a folder with the folders '
            f'{", ".join(PROMPTS)}, or a JSON list as --images.'
        )
    asked = [
        AskedImage(file, prompt, dict(group=task))
        for task, prompt in PROMPTS.items()
        for file in found.get(task, [])
    ]
    if not asked:
        raise ValueError(
            f'{images} has none of the folders {", ".join(PROMPTS)}; put the '
            'images of each task into its folder.'
        )
    return asked


def _read_list(path: Path) -> dict[str, list[str]]:
    expected = 'expected a list of {"image": "a.jpg", "task": "meme"}'
    records = read_json(path, expected.removeprefix('expected '))
    if not isinstance(records, list) or not records:
        raise ValueError(f'{path} is no list of images; {expected}.')
    found: dict[str, list[str]] = {}
    for number, record in enumerate(records):
        place = f'{path}: record {number}'
        if not isinstance(record, dict) or not isinstance(
            record.get('image'), str
        ):
            raise ValueError(f'{place} has no image; {expected}.')
        task = record.get('task')
        if task not in PROMPTS:
            raise ValueError(
                f'{place} has the task {task!r}; expected one of '
                f'{", ".join(PROMPTS)}.'
            )
        file = path.parent / record['image']
        if not file.is_file():
            raise FileNotFoundError(
                f'{place}: {printable(str(file))} does not exist; give paths '
                'from the folder of the list.'
            )
        found.setdefault(task, []).append(str(file))
    return found


def judge_questions(rows: Sequence[Mapping[str, Any]]) -> list[JudgeQuestion]:
    """What to ask about answers."""
    before, rest = JUDGE_PROMPT.split('{prompt}')
    between, after = rest.split('{answer}')
    return [
        JudgeQuestion(
            f'{row["number"]:06d}',
            f'{before}{row["prompt"]}{between}{row["answer"]}{after}',
            dict(
                number=row['number'],
                group=row['group'],
                prompt=row['prompt'],
                generated=row['answer'],
            ),
        )
        for row in rows
        if 'error' not in row
    ]


def score_abilities(
    rows: Sequence[Mapping[str, Any]],
    judgements: Sequence[dict[str, Any]],
    parser: str = 'first-word',
) -> dict[str, Any]:
    """Count answers, and those that the judge accepts.

    Args:
        rows: Of ``answers.jsonl``.
        judgements: Of ``judgements.jsonl``; none without a judge.
        parser: See :func:`~.judge.parse_yes_no`.

    Returns:
        ``tasks``: for each its ``answers``, and with a judge ``judged`` (the
        share of yes among its answers; an unparsed one is no yes) and
        ``unparsed``.
    """
    found, _ = decisions(judgements, parser)
    tasks: dict[str, Any] = {}
    for task in PROMPTS:
        keys = [
            f'{row["number"]:06d}'
            for row in rows
            if row['group'] == task and 'error' not in row
        ]
        tasks[task] = dict(answers=len(keys))
        own = [found[key] for key in keys if key in found]
        if found:
            tasks[task] |= dict(
                judged=share(own.count('yes'), len(own)),
                unparsed=own.count('unparsed'),
            )
    return dict(tasks=tasks)
