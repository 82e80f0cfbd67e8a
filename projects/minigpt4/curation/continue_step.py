# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Step ``continue``: descriptions that are too short are continued.

A description of at most 80 tokens counts as incomplete; the model is then
asked to continue, and both texts are joined.

Source: paper section 3.2.
"""

import functools
from collections import deque
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from ..captioning.batch import CaptionTask, TaskAnswer
from ..prompts import Turn
from .added_files import check_added
from .describe import (
    DescribeSettings,
    answers,
    failure,
    model_identity,
    sampling_settings,
)
from .ledger import Result
from .pipeline import StepItem


class ContinueSettings(BaseModel):
    """Section ``continue``: when and how a description is continued."""

    model_config = ConfigDict(extra='forbid')

    min_tokens: int = Field(
        default=80,
        ge=0,
        description='a description of at most this many tokens is continued; '
        '0 continues none',
    )
    prompt: str = Field(
        default='Continue', min_length=1, description='the question'
    )


class ContinueStep:
    """Continue short descriptions with the model that wrote them.

    Args:
        settings: The section of the settings.
        describe: The section of the step before: the model and its prompt.
    """

    name = 'continue'

    def __init__(
        self, settings: ContinueSettings, describe: DescribeSettings
    ) -> None:
        self._settings = settings
        self._describe = describe
        self.settings = dict(
            **model_identity(describe),
            generation=sampling_settings(describe),
            min_tokens=settings.min_tokens,
            prompt=settings.prompt,
        )

    def run(self, items: Iterator[StepItem]) -> Iterator[Result]:
        """Continue short texts; see :class:`~.pipeline.Step`."""
        unchanged: deque[Result] = deque()

        def tasks() -> Iterator[CaptionTask]:
            for item in items:
                if item.details.get('tokens', 0) > self._settings.min_tokens:
                    details = dict(item.details, continued=False, seconds=0.0)
                    unchanged.append(
                        Result(item.image.id, 'ok', item.text, details)
                    )
                    continue
                turn = Turn(self._describe.prompt, item.text)
                yield CaptionTask(
                    item.image.path,
                    self._settings.prompt,
                    history=(turn,),
                    id=item,
                    check_file=functools.partial(
                        check_added, image=item.image
                    ),
                )

        for answer in answers(self._describe, tasks(), sampling=None):
            yield from unchanged
            unchanged.clear()
            yield _joined(answer)
        yield from unchanged


def _joined(answer: TaskAnswer) -> Result:
    item: StepItem = answer.task.id
    if answer.error is not None:
        return failure(item.image.id, answer.error)
    text = ' '.join(filter(None, (item.text, answer.text)))
    return Result(
        item.image.id,
        'ok',
        text,
        dict(
            tokens=item.details.get('tokens', 0) + answer.tokens,
            finished=answer.finished,
            continued=True,
            seconds=round(answer.seconds, 3),
        ),
    )
