# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a reproduction consists of: data, trainings, tests, claims.

:mod:`.nano` and :mod:`.small` are the two that there are. The plan, the tables
and the report know neither.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from .claims import Claim
from .seeds import Mean
from .steps import Step


class Training(NamedTuple):
    """One training; it runs once with each seed.

    Attributes:
        name: Its name in files and tables.
        config: A file of ``configs/minigpt4``.
        test: The config whose model is tested.
        cost: Of one iteration, in the unit of :class:`~.steps.Step`.
        start: The training from whose last checkpoint it starts.
        settings: Changes of the config, ``KEY=VALUE``.
        features: The kind of image features that it reads from a cache; None
            where the vision modules are trained.
        part: The frozen part that is made for it; None if all are shipped.
        descriptions: The number of descriptions that it is about; it is
            omitted if the data have fewer. None if it takes all.
    """

    name: str
    config: str
    test: str
    cost: float
    start: str | None = None
    settings: tuple[str, ...] = ()
    features: str | None = None
    part: str | None = None
    descriptions: int | None = None


class Part(NamedTuple):
    """A frozen part that some trainings need.

    Attributes:
        command: The command that makes it, of a share of the iterations.
        cost: In the unit of :class:`~.steps.Step`.
        outputs: Files and folders that it makes.
    """

    command: Callable[[float], tuple[str, ...]]
    cost: float
    outputs: tuple[str, ...]


class Target(NamedTuple):
    """What a test is about.

    Attributes:
        config: The config of the model.
        checkpoint: The checkpoint.
        folder: The folder for the results.
        share: Share of the test data, in (0, 1].
    """

    config: str
    checkpoint: str
    folder: str
    share: float


class Example(NamedTuple):
    """An answer of a test.

    Attributes:
        key: The same for all trainings.
        image: The path of its image.
        task: What was asked for.
        answer: The answer.
        right: The right answer; '' where there is none.
    """

    key: str
    image: Path
    task: str
    answer: str
    right: str = ''


def no_examples(folder: Path, results: Path) -> Iterator[Example]:
    """The examples of a test without examples."""
    return iter(())


class Test(NamedTuple):
    """How each checkpoint is tested.

    Attributes:
        name: Its name in files.
        command: Its command, which writes into the folder of the target.
        read: Reads the scores by name from this folder; a score that is not
            defined is None.
        counts: Reads how many records were scored, and how many there are.
            Its arguments are the folder in which the steps ran, and the
            folder of the results.
        cost: Of all images, in the unit of :class:`~.steps.Step`.
        examples: Reads examples for the report. Its arguments are those of
            ``counts``.
    """

    name: str
    command: Callable[[Target], tuple[str, ...]]
    read: Callable[[Path], dict[str, float | None]]
    counts: Callable[[Path, Path], tuple[int, int]]
    cost: float
    examples: Callable[[Path, Path], Iterator[Example]] = no_examples


class Goal(NamedTuple):
    """A goal for the mean of a score.

    Attributes:
        training: The training.
        score: The score.
        is_met: Whether a mean meets it.
        text: The goal in a table.
    """

    training: str
    score: str
    is_met: Callable[[Mean], bool]
    text: str


def at_least(training: str, score: str, limit: float) -> Goal:
    """The goal that a mean is not below a limit."""
    return Goal(training, score, lambda m: m.value >= limit, f'≥ {limit:.2f}')


def at_most(training: str, score: str, limit: float) -> Goal:
    """The goal that a mean is not above a limit."""
    return Goal(training, score, lambda m: m.value <= limit, f'≤ {limit:.2f}')


class Curve(NamedTuple):
    """A table of trainings that differ in one number.

    Attributes:
        title: Its title.
        unit: The unit of the number.
        labels: The number of each training by its name, in their order; None
            for the iterations of its config.
    """

    title: str
    unit: str
    labels: Mapping[str, str | None]


class Setup(NamedTuple):
    """What a reproduction consists of.

    All commands run in one folder, to which their paths are relative.

    Attributes:
        data: The steps that make the data, of a share of them.
        sources: What else the data depend on, such as code and photographs;
            for the digest.
        features: The kinds of image features by name, each with the cost of
            caching all images of a config, in the unit of
            :class:`~.steps.Step`.
        trainings: The trainings, each after the one that it starts from.
        tests: The tests.
        columns: Titles of the scores in the tables.
        claims: The claims of the paper.
        goals: The goals of this project.
        curves: Tables of trainings that differ in one number.
        limit: Number of records to which a share of the complete
            reproduction limits each data set; None if ``data`` does it.
        parts: The frozen parts that are made, by name.
        descriptions: Counts the descriptions for stage 2 in the folder in
            which the steps run; None if there are always enough.
    """

    data: Callable[[float], Sequence[Step]]
    sources: Callable[[], Sequence[bytes]]
    features: Mapping[str, float]
    trainings: tuple[Training, ...]
    tests: tuple[Test, ...]
    columns: Mapping[str, str]
    claims: tuple[Claim, ...]
    goals: tuple[Goal, ...]
    curves: tuple[Curve, ...]
    limit: Callable[[float], int] | None = None
    parts: Mapping[str, Part] = MappingProxyType({})
    descriptions: Callable[[Path], int] | None = None


def lengths_of(
    stage_2: Training, lengths: Sequence[int], warmup: float
) -> tuple[tuple[Training, ...], Curve]:
    """Trainings of stage 2 that differ in their length.

    Args:
        stage_2: Stage 2.
        lengths: Their iterations, ascending.
        warmup: Share of the warmup.

    Returns:
        The trainings, and their table with ``stage_2`` itself.
    """
    trainings = tuple(
        stage_2._replace(
            name=f'{stage_2.name}_{length}_iterations',
            settings=(
                f'max_iters={length}',
                f'param_scheduler.0.warmup={round(length * warmup)}',
            ),
        )
        for length in lengths
    )
    names = {t.name: str(n) for t, n in zip(trainings, lengths, strict=True)}
    labels = {stage_2.name: None, **names}
    return trainings, Curve('Length of stage 2', 'iterations', labels)


def sizes_of(
    stage_2: Training, sizes: Sequence[int]
) -> tuple[tuple[Training, ...], Curve]:
    """Trainings of stage 2 that differ in the number of descriptions.

    Args:
        stage_2: Stage 2, with all descriptions.
        sizes: Their numbers of descriptions, ascending.

    Returns:
        The trainings, and their table with ``stage_2`` itself.
    """
    trainings = tuple(
        stage_2._replace(
            name=f'{stage_2.name}_{size}_descriptions',
            settings=(f'train_dataloader.dataset.limit={size}',),
            descriptions=size,
        )
        for size in sizes
    )
    names = {t.name: str(n) for t, n in zip(trainings, sizes, strict=True)}
    labels = {**names, stage_2.name: 'as in its config'}
    return trainings, Curve('Descriptions in stage 2', 'descriptions', labels)


def with_enough(setup: Setup, folder: Path) -> tuple[Setup, list[str]]:
    """Omit the trainings for which the data have too few descriptions.

    Args:
        setup: The setup.
        folder: The folder in which its data were made.

    Returns:
        The setup with the others, and a sentence about each omitted training.
    """
    if setup.descriptions is None:
        return setup, []
    number = setup.descriptions(folder)
    omitted = {
        training.name: f'{training.name} is omitted: the data have '
        f'{number:,} descriptions, expected at least '
        f'{training.descriptions:,}'
        for training in setup.trainings
        if training.descriptions is not None and number < training.descriptions
    }
    kept = tuple(t for t in setup.trainings if t.name not in omitted)
    return setup._replace(trainings=kept), [*omitted.values()]


def with_needed(
    trainings: Sequence[Training], names: Sequence[str]
) -> tuple[Training, ...]:
    """Keep the named trainings and those that they start from.

    Raises:
        ValueError: A name is unknown.
    """
    by_name = {training.name: training for training in trainings}
    kept = set()
    for name in names:
        if name not in by_name:
            raise ValueError(
                f'there is no training {name!r}; expected one of '
                f'{", ".join(by_name)}.'
            )
        current: str | None = name
        while current is not None:
            kept.add(current)
            current = by_name[current].start
    return tuple(t for t in trainings if t.name in kept)
