# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Questions about images with their true answers, from official files."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ..data_tools.image_places import ImagePlaces
from ..data_tools.import_items import Item
from ..data_tools.question_files import read_content
from ..datasets.image_folder import id_problem
from ..datasets.json_values import DuplicateKey
from ..utils.errors import printable, short_json
from ..utils.ids import checked_id, id_key
from .image_sums import ImageSums, Ratios


class Question(NamedTuple):
    """A question of a protocol.

    Attributes:
        id: Its id in the file.
        image: Name or number of its image in the file.
        text: The question.
        truth: What the scorer needs, as a JSON object.
        choices: The answers to choose from; empty if there are none.
    """

    id: int | str
    image: str
    text: str
    truth: dict[str, Any]
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuestionProtocol:
    """How the questions of a data set are read, asked and scored.

    Attributes:
        name: Name of the protocol.
        data: The official files, and where to get them.
        content: What the file of the questions is, as
            :attr:`~minigpt4.data_tools.question_files.FileContent.kind`.
        prompt: The prompt, with ``{question}`` and perhaps ``{choices}``.
        generation: Sampling parameters.
        items: Yields the records of a file.
        question: Makes the question of a record; a ``ValueError`` is what is
            wrong with the record, as a phrase that follows its place.
        counts: The counts of a row that has an answer, with the scoring
            options; ``questions`` is 1.
        ratios: The counts whose sums each score divides. ``accuracy`` is the
            share of right answers.
        labels: Label, name and unit of each score that is printed.
        scoring: The scoring options and their defaults.
    """

    name: str
    data: str
    content: str
    prompt: str
    generation: Mapping[str, Any]
    items: Callable[..., Iterable[Item]]
    question: Callable[[dict[str, Any]], Question]
    counts: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, float]]
    ratios: Ratios
    labels: tuple[tuple[str, str, str], ...]
    scoring: Mapping[str, Any] = field(default_factory=dict)

    def score(
        self,
        rows: Iterable[Mapping[str, Any]],
        scoring: Mapping[str, Any],
        resamples: int,
    ) -> dict[str, Any]:
        """Compute the scores of rows that have an answer.

        Args:
            rows: The rows, as the protocol's ``counts`` takes them, each with
                its ``image``.
            scoring: The scoring options.
            resamples: Resamples of the bootstrap.

        Returns:
            ``images`` (their number) and ``scores``, each with ``value`` and
            95 % ``interval`` over images.
        """
        sums = ImageSums(resamples=resamples)
        for row in rows:
            try:
                sums.add(row['image'], **self.counts(row, scoring))
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f'the answer to question {printable(str(row.get("id")))} '
                    'is damaged; remove its line from the file of the '
                    'answers, and run the command of the folder again.'
                ) from error
        return dict(images=len(sums), scores=sums.scores(self.ratios))


class AskedQuestion(NamedTuple):
    """A question with its image file and its prompt."""

    question: Question
    file: str
    prompt: str


class QuestionSet(NamedTuple):
    """The questions of a file whose images exist.

    Attributes:
        asked: The questions, in the order of the file.
        skipped: Why each record that cannot be used was skipped.
        without_image: Names of images that do not exist, of each question.
    """

    asked: list[AskedQuestion]
    skipped: list[str]
    without_image: list[str]


def read_questions(
    protocol: QuestionProtocol,
    items: Iterable[Item],
    source: Path,
    images: Path,
    prompt: str,
    limit: int | None = None,
) -> QuestionSet:
    """Read questions and find their images.

    Args:
        protocol: The protocol.
        items: The records.
        source: The file of the questions, for errors.
        images: The folder of the images.
        prompt: The prompt, with ``{question}``.
        limit: Use the first questions whose image exists; None for all.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No record can be used, or no image exists.
    """
    if not images.is_dir():
        found = 'is not a folder' if images.exists() else 'does not exist'
        raise FileNotFoundError(
            f'{images} {found}; give the folder of the images as --images. '
            f'{protocol.data}'
        )
    places = ImagePlaces(source, images)
    asked: list[AskedQuestion] = []
    skipped: list[str] = []
    without_image: list[str] = []
    known: set[str] = set()
    for item in items:
        if limit is not None and len(asked) == limit:
            break
        try:
            question = _question(protocol, item, known)
            file = places.find(question.image)
        except ValueError as error:
            skipped.append(printable(f'{item.place} {error}'))
            continue
        if file is None:
            without_image.append(question.image)
            continue
        text = prompt.replace('{question}', question.text)
        text = text.replace('{choices}', ', '.join(question.choices))
        asked.append(AskedQuestion(question, file, text))
    if not asked:
        raise ValueError(
            _no_question(protocol, source, images, skipped, without_image)
        )
    return QuestionSet(asked, skipped, without_image)


def check_prompt(prompt: str) -> None:
    """Check a prompt with a place for the question.

    Raises:
        ValueError: It has none.
    """
    if '{question}' not in prompt:
        raise ValueError(
            f'the prompt {printable(prompt)!r} has no {{question}}; expected '
            'a text such as "{question} Answer yes or no.".'
        )


def likeliest(row: Mapping[str, Any]) -> str:
    """The choice of the highest log-likelihood, of equal ones the first.

    Raises:
        TypeError: There is not one number for each choice.
    """
    values = row['log_likelihoods']
    if len(values) != len(row['choices']) or not all(map(isfinite, values)):
        raise TypeError('not one log-likelihood for each choice')
    return str(row['choices'][values.index(max(values))])


def required(record: Mapping[str, Any], *names: str) -> Any:
    """The first of some fields that a record has.

    Raises:
        ValueError: It has none of them.
    """
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise ValueError(f'has no {" or ".join(names)}')


def required_text(record: Mapping[str, Any], *names: str) -> str:
    """As :func:`required`, for a text that is not empty.

    Raises:
        ValueError: There is no such text.
    """
    value = required(record, *names)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'has the {names[0]} {value!r}; expected a text')
    return value


def image_name(record: Mapping[str, Any]) -> str:
    """Name or number of the image of a record.

    Raises:
        ValueError: There is none, or it is an id that leads out of the
            folder of the images, as only a path under ``image`` may.
    """
    value = required(record, 'image', 'image_id')
    try:
        name = id_key(value)
    except ValueError as error:
        raise ValueError(f'has an image that {error}') from None
    if record.get('image') is None:
        if problem := id_problem('image_id', name):
            raise ValueError(problem)
    return name


def question_id(record: Mapping[str, Any]) -> int | str:
    """The id of the question of a record.

    Raises:
        ValueError: There is none.
    """
    value = required(record, 'question_id', 'id')
    try:
        return checked_id(value)
    except ValueError as error:
        raise ValueError(f'has a question_id that {error}') from None


def _question(
    protocol: QuestionProtocol, item: Item, known: set[str]
) -> Question:
    if item.record is None:
        raise ValueError(item.problem)
    if isinstance(item.record, DuplicateKey):
        key = short_json(item.record.key)
        raise ValueError(f'has the key {key} twice; expected it once')
    if not isinstance(item.record, dict):
        raise ValueError('is not an object')
    question = protocol.question(item.record)
    key = id_key(question.id)
    if key in known:
        raise ValueError(
            f'has the question_id {question.id!r} of an earlier record'
        )
    known.add(key)
    return question


def _no_question(
    protocol: QuestionProtocol,
    source: Path,
    images: Path,
    skipped: Sequence[str],
    without_image: Sequence[str],
) -> str:
    if without_image:
        example = printable(os.path.basename(without_image[0]))
        return (
            f'{images} has none of the images of {len(without_image):,} '
            f'questions of {source} (such as {example}). {protocol.data}'
        )
    content = read_content(source)
    if content.kind not in ('', protocol.content):
        return (
            f'{source} {content.describe()} and seems to be {content.kind}. '
            f'Expected {protocol.data}'
        )
    if not skipped:
        return f'{source} {content.describe()}. Expected {protocol.data}'
    more = f', and {len(skipped) - 1:,} more' if len(skipped) > 1 else ''
    return (
        f'{source} has no question that can be used ({skipped[0]}{more}). '
        f'{protocol.data}'
    )
