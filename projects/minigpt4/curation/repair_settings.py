# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The settings of the step ``repair``."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..endpoints.settings import EndpointSettings

# section 3.2 of the paper (arXiv:2304.10592), word for word
REPAIR_PROMPT = (
    'Fix the error in the given paragraph. Remove any repeating sentences, '
    'meaningless characters, not English sentences, and so on. Remove '
    'unnecessary repetition. Rewrite any incomplete sentences. Return '
    'directly the results without explanation. Return directly the input '
    'paragraph if it is already correct without explanation.'
)
Action = Literal['ignore', 'flag', 'reject', 'fail']


class GuardSettings(BaseModel):
    """What to do with a repair that the guard finds suspicious.

    Each of the first fields is the id of a flag. ``ignore``: not checked.
    ``flag``: the repair is kept and the flag is stored, for the review.
    ``reject``: the draft is kept, with the flag. ``fail``: the image fails,
    and the next run asks again.
    """

    model_config = ConfigDict(extra='forbid')

    added_object: Action = Field(
        default='flag',
        description='names an object (COCO class) that the draft lacks',
    )
    added_noun: Action = Field(
        default='flag',
        description='has a noun that no word of the draft resembles',
    )
    added_number: Action = Field(
        default='flag',
        description='has a number or count that the draft lacks',
    )
    prompt_leak: Action = Field(
        default='flag', description='repeats a part of the prompt'
    )
    explanation: Action = Field(
        default='flag',
        description='explains itself instead of only the paragraph',
    )
    language_model: Action = Field(
        default='flag',
        description='says that it is a language model, or refuses',
    )
    marker: Action = Field(
        default='flag',
        description='has a tag of a prompt template or of reasoning',
    )
    language: Action = Field(
        default='flag', description='is in another language than the draft'
    )
    shrunk: Action = Field(
        default='flag', description='is much shorter than the draft'
    )
    grown: Action = Field(
        default='flag', description='is much longer than the draft'
    )
    min_share: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description='flag "shrunk" below this share of the content words of '
        'the draft, where repetition counts once',
    )
    max_share: float = Field(
        default=1.3,
        ge=1,
        description='flag "grown" above this share of the content words of '
        'the draft, and more than 5 additional ones',
    )


class RepairSettings(EndpointSettings):
    """Settings of the step ``repair``, as plain fields of a config."""

    task: ClassVar[str] = 'repair'
    plural: ClassVar[str] = 'repairs'
    kept: ClassVar[str] = 'what was repaired is kept'

    backend: Literal['none', 'openai', 'model', 'recorded'] = Field(
        default='none',
        description='none: texts pass unchanged; openai: an endpoint that '
        "follows OpenAI's API; model: a local model of ours, without image; "
        'recorded: answers from a file',
    )
    prompt: str = Field(
        default=REPAIR_PROMPT,
        min_length=1,
        description='what precedes the paragraph in the message',
    )
    guard: GuardSettings = Field(
        default_factory=GuardSettings,
        description='what to do with suspicious repairs',
    )

    def message(self, text: str) -> str:
        """Return the message that asks for the repair of a text."""
        return f'{self.prompt}\n\n{text}'

    def request_settings(self) -> dict[str, Any]:
        """As the base class, with the prompt."""
        settings = super().request_settings()
        if self.backend != 'none':
            settings['prompt'] = self.prompt
        return settings

    def key_settings(self) -> dict[str, Any]:
        """Return what the results of the step depend on, as JSON."""
        settings: dict[str, Any] = dict(request=self.request_settings())
        if self.backend != 'none':
            settings['guard'] = self.guard.model_dump()
        return settings
