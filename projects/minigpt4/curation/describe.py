# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Step ``describe``: the stage-1 model describes each image.

Source: paper section 3.2.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from pydantic import BaseModel, ConfigDict, Field

from ..captioning.answers import answer_many
from ..captioning.batch import CaptionTask, TaskAnswer
from ..endpoints.local_model import shared_model
from ..generation.sampling_params import SamplingParams
from ..llm.locate import LLM_VARIABLE
from ..loading import check_model
from ..prompts import TEMPLATES
from ..utils.errors import one_line
from ..utils.regular_files import open_regular
from ..weights.download import SCHEME, is_remote
from ..weights.model_hub import our_models
from ..weights.shipped import PREFIXES
from .added_files import check_added
from .ledger import Result
from .pipeline import StepItem

PROMPT = (
    'Describe this image in detail. Give as many details as possible. Say '
    'everything you see.'
)


class DescribeSettings(BaseModel):
    """Section ``describe``: the model, and how it describes an image."""

    model_config = ConfigDict(extra='forbid', protected_namespaces=())

    model: str = Field(
        default='minigpt-4_nano_caption',
        description='a model of "minigpt4 download --list", or the file of a '
        'config',
    )
    pretrained: str | None = Field(
        default=None,
        description='a checkpoint of the projection, instead of the '
        'published one',
    )
    device: str | None = Field(
        default=None, description='cuda, cuda:1 or cpu; none is a GPU'
    )
    template: str | None = Field(
        default=None,
        description="a prompt template; none is the model's, and for a model "
        "of stage 1, which has none, the chat template of its LLM's "
        'tokenizer or that of Vicuna',
    )
    prompt: str = Field(
        default=PROMPT, min_length=1, description='the question'
    )
    generation: dict[str, Any] = Field(
        default_factory=dict,
        description="sampling parameters, instead of the model's own",
    )
    slots: int = Field(
        default=8, ge=1, description='answers generated at the same time'
    )
    workers: int = Field(
        default_factory=lambda: min(8, os.cpu_count() or 1),
        ge=1,
        description='threads that decode images',
    )


class DescribeStep:
    """Describe images in batches.

    Args:
        settings: The section of the settings.

    Raises:
        ValueError: The model or a sampling parameter cannot be used.
        OSError: A file of the model cannot be read.
    """

    name = 'describe'

    def __init__(self, settings: DescribeSettings) -> None:
        self._settings = settings
        self.settings = dict(
            **model_identity(settings),
            prompt=settings.prompt,
            generation=sampling_settings(settings),
        )

    def run(self, items: Iterator[StepItem]) -> Iterator[Result]:
        """Describe the images; see :class:`~.pipeline.Step`."""
        tasks = (
            CaptionTask(
                item.image.path,
                self._settings.prompt,
                id=item.image.id,
                check_file=functools.partial(check_added, image=item.image),
            )
            for item in items
        )
        for answer in answers(self._settings, tasks, sampling=None):
            if answer.error is not None:
                yield failure(answer.task.id, answer.error)
                continue
            yield Result(
                answer.task.id,
                'ok',
                answer.text,
                dict(
                    tokens=answer.tokens,
                    finished=answer.finished,
                    seconds=round(answer.seconds, 3),
                ),
            )


def answers(
    settings: DescribeSettings,
    tasks: Iterator[CaptionTask],
    sampling: dict[str, Any] | None,
) -> Iterator[TaskAnswer]:
    """Answer tasks with the model, which is loaded for the first one.

    Args:
        settings: The model, and how it runs.
        tasks: The tasks.
        sampling: Sampling parameters; None is those of the settings.
    """
    first = next(tasks, None)
    if first is None:
        return

    def all_tasks() -> Iterator[CaptionTask]:
        yield first
        yield from tasks

    load = functools.partial(
        shared_model,
        settings.model,
        settings.pretrained,
        settings.device,
        settings.template,
    )
    if sampling is None:
        sampling = sampling_settings(settings)
    for ended in answer_many(
        load, all_tasks(), settings.slots, settings.workers, sampling
    ):
        yield from ended


def failure(image: int, error: Exception) -> Result:
    """The result for an image that the engine could not answer."""
    return Result(image, 'failed', one_line(error), {})


def sampling_settings(settings: DescribeSettings) -> dict[str, Any]:
    """The sampling parameters that were given.

    Sampling has a seed, so that a text does not depend on the run.

    Raises:
        ValueError: A parameter is unknown or out of its range.
    """
    try:
        params = SamplingParams.of(settings.generation)
    except ValueError as error:
        raise ValueError(f'describe.generation: {error}') from error
    if params.do_sample and params.seed is None:
        return dict(settings.generation, seed=0)
    return dict(settings.generation)


def model_identity(settings: DescribeSettings) -> dict[str, Any]:
    """What identifies the model of a step: its settings and its files.

    The digest of the config covers the LLM and the vision parts by their
    names. A checkpoint on this computer is identified by its content.

    Raises:
        ValueError: There is no such model, checkpoint or template.
        OSError: A file cannot be read.
    """
    known_templates = [*TEMPLATES, 'chat']
    if settings.template not in (None, *known_templates):
        raise ValueError(
            f'describe.template is {settings.template!r}; expected one of '
            f'{", ".join(known_templates)}.'
        )
    pretrained = settings.pretrained
    if pretrained is not None:
        pretrained = os.path.expanduser(pretrained)
    check_model(settings.model, pretrained)
    known = our_models().get(settings.model.lower())
    try:
        config = Config.fromfile(known.config if known else settings.model)
        content = json.dumps(
            config.model.to_dict(), sort_keys=True, default=str
        )
    except Exception as error:  # a config is a program and may raise anything
        raise ValueError(
            f'{settings.model} is not the config of a model '
            f'({one_line(error)}); give the name of a model or the file of '
            'its config.'
        ) from error
    weights = pretrained or (known and known.weights) or ''
    llm = config.model.get('decoder', {}).get('name_or_path', '')
    replaced = not (llm.startswith((SCHEME, *PREFIXES)) or os.path.exists(llm))
    return dict(
        model=known.name if known else Path(settings.model).name,
        config=hashlib.sha256(content.encode()).hexdigest()[:16],
        checkpoint=weights if is_remote(weights) else _digest(weights),
        template=settings.template,
        llm=os.environ.get(LLM_VARIABLE, llm) if replaced else llm,
    )


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()
