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
        features: The cache of image features that it reads; None where the
            vision modules are trained.
        part: The frozen part that is made for it; None if all are shipped.
    """

    name: str
    config: str
    test: str
    cost: float
    start: str | None = None
    settings: tuple[str, ...] = ()
    features: str | None = None
    part: str | None = None


class Features(NamedTuple):
    """A cache of image features.

    Attributes:
        configs: The configs whose images it has, files of
            ``configs/minigpt4``.
        cost: Of all images of a config, in the unit of
            :class:`~.steps.Step`.
    """

    configs: tuple[str, ...]
    cost: float


class Part(NamedTuple):
    """A frozen part that some trainings need.

    Attributes:
        command: The command that makes it, of a share of the iterations.
        cost: In the unit of :class:`~.steps.Step`.
    """

    command: Callable[[float], tuple[str, ...]]
    cost: float


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
        cost: Of all images, in the unit of :class:`~.steps.Step`.
        examples: Reads examples for the report. Its arguments are the folder
            in which the steps ran, and the folder of the results.
    """

    name: str
    command: Callable[[Target], tuple[str, ...]]
    read: Callable[[Path], dict[str, float | None]]
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
        features: The caches of image features by name.
        trainings: The trainings, each after the one that it starts from.
        tests: The tests.
        columns: Titles of the scores in the tables.
        claims: The claims of the paper.
        goals: The goals of this project.
        curves: Tables of trainings that differ in one number.
        limit: Number of records to which a share of the complete
            reproduction limits each data set; None if ``data`` does it.
        parts: The frozen parts that are made, by name.
    """

    data: Callable[[float], Sequence[Step]]
    sources: Callable[[], Sequence[bytes]]
    features: Mapping[str, Features]
    trainings: tuple[Training, ...]
    tests: tuple[Test, ...]
    columns: Mapping[str, str]
    claims: tuple[Claim, ...]
    goals: tuple[Goal, ...]
    curves: tuple[Curve, ...]
    limit: Callable[[float], int] | None = None
    parts: Mapping[str, Part] = MappingProxyType({})


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
        )
        for size in sizes
    )
    names = {t.name: str(n) for t, n in zip(trainings, sizes, strict=True)}
    labels = {**names, stage_2.name: 'as in its config'}
    return trainings, Curve('Descriptions in stage 2', 'descriptions', labels)


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
