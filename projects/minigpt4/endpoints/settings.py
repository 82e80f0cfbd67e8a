# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Settings of who answers messages, and how an endpoint is asked."""

import hashlib
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..utils.regular_files import open_regular

_DAY_SECONDS = 86_400


class EndpointSettings(BaseModel):
    """Who answers messages, and how an endpoint is asked.

    A subclass states for which task, for the sentences of errors.

    Attributes:
        task: What the answers are for, as one word.
        plural: The word for several answers.
        kept: A clause: what is kept when the run ends.
    """

    model_config = ConfigDict(extra='forbid', protected_namespaces=())
    task: ClassVar[str] = 'answers'
    plural: ClassVar[str] = 'answers'
    kept: ClassVar[str] = 'what was answered is kept'

    backend: Literal['none', 'openai', 'model', 'recorded'] = Field(
        default='none',
        description='none: no model is asked; openai: an endpoint that '
        "follows OpenAI's API; model: a local model of ours, without image; "
        'recorded: answers from a file',
    )
    model: str = Field(
        default='',
        description='openai and recorded: the name of the model; model: a '
        'name of our hub, or the file of a config',
    )
    temperature: float | None = Field(
        default=0.0,
        ge=0,
        description='of the sampling; null leaves it to the endpoint',
    )
    max_tokens: int = Field(
        default=512,
        ge=1,
        description='the most tokens of an answer; a longer one fails',
    )
    # openai
    base_url: str | None = Field(
        default=None,
        description='address of the endpoint, e.g. http://127.0.0.1:8000/v1; '
        "null is that of OpenAI's client (OPENAI_BASE_URL)",
    )
    api_key_env: str | None = Field(
        default='OPENAI_API_KEY',
        description='environment variable that holds the key; null for an '
        'endpoint without a key',
    )
    max_tokens_field: Literal['max_tokens', 'max_completion_tokens'] = Field(
        default='max_tokens',
        description='the field of the request that limits the answer; newer '
        'models of OpenAI take only max_completion_tokens',
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description='other fields of each request, e.g. {"top_p": 0.9}',
    )
    concurrency: int = Field(
        default=8, ge=1, le=256, description='requests at the same time'
    )
    timeout_seconds: float = Field(
        default=60.0,
        gt=0,
        le=_DAY_SECONDS,
        description='the longest wait for an answer',
    )
    retries: int = Field(
        default=5,
        ge=0,
        le=20,
        description='further attempts after 408, 409, 429, 5xx, a timeout or '
        'a lost connection',
    )
    backoff_seconds: float = Field(
        default=1.0,
        ge=0,
        le=_DAY_SECONDS,
        description='wait before the first further attempt; each next wait '
        'is twice as long, up to 30 s',
    )
    max_wait_seconds: float = Field(
        default=120.0,
        ge=0,
        le=_DAY_SECONDS,
        description='the longest wait that a Retry-After of the endpoint may '
        'ask for; after a longer one the message fails',
    )
    max_failures: int = Field(
        default=10,
        ge=1,
        description='failures of the endpoint in succession that end the run',
    )
    requests_per_minute: float | None = Field(
        default=None, gt=0, description='limit of the rate; null is none'
    )
    tokens_per_minute: float | None = Field(
        default=None,
        gt=0,
        description='limit of prompt and answer tokens, as estimated before '
        'each request; null is none',
    )
    price_prompt: float | None = Field(
        default=None, ge=0, description='US dollars per million prompt tokens'
    )
    price_completion: float | None = Field(
        default=None,
        ge=0,
        description='US dollars per million tokens of answers',
    )
    max_cost: float | None = Field(
        default=None,
        ge=0,
        description='US dollars that all answers together may cost; the run '
        'stops before it would exceed them',
    )
    tokenizer: str | None = Field(
        default=None,
        description='folder of a tokenizer for the estimate of the cost; '
        'null counts 4 characters per token',
    )
    # model
    pretrained: str | None = Field(
        default=None,
        description='checkpoint of the local model; null is its own',
    )
    device: str | None = Field(
        default=None,
        description='of the local model; null is the GPU if there is one',
    )
    template: str | None = Field(
        default=None,
        description='prompt template of the local model; null: its own, or a '
        'chat template for a model of stage 1',
    )
    # recorded answers
    recorded: str | None = Field(
        default=None,
        description='JSONL file of answers, for the backend recorded',
    )
    record: str | None = Field(
        default=None, description='JSONL file to which each answer is appended'
    )

    @model_validator(mode='after')
    def _check(self) -> 'EndpointSettings':
        if self.backend in ('openai', 'model') and not self.model:
            raise ValueError(
                f'backend is {self.backend}, but model is empty; give the '
                'name of the model.'
            )
        if self.backend == 'recorded' and self.recorded is None:
            raise ValueError(
                'backend is recorded, but recorded is empty; give the JSONL '
                'file of the answers.'
            )
        if self.record is not None and self.backend == 'recorded':
            raise ValueError(
                'record is set, but backend is recorded, which asks no '
                'model; remove one of them.'
            )
        priced = None not in (self.price_prompt, self.price_completion)
        if self.max_cost is not None and not priced:
            raise ValueError(
                'max_cost is set, but price_prompt and price_completion are '
                'not; give both in US dollars per million tokens.'
            )
        return self

    @classmethod
    def option(cls, name: str) -> str:
        """Return how the user gives a setting, for the text of errors."""
        return f'{cls.task}.{name}'

    def request_settings(self) -> dict[str, Any]:
        """Return what the answer to a message depends on, as JSON.

        The address of the endpoint is not part of it: a model may move to
        another address without everything being asked again.

        Raises:
            OSError: The file of recorded answers cannot be read.
        """
        if self.backend == 'none':
            return dict(backend='none')
        settings: dict[str, Any] = dict(backend=self.backend, model=self.model)
        if self.backend == 'recorded':
            settings['recorded'] = _digest(str(self.recorded))
            return settings
        settings['temperature'] = self.temperature
        settings['max_tokens'] = self.max_tokens
        if self.backend == 'openai':
            settings['extra_body'] = self.extra_body
        if self.backend == 'model':
            settings['template'] = self.template
            if self.pretrained is not None:
                settings['pretrained'] = _digest(self.pretrained)
        return settings


def _digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_regular(Path(os.path.expanduser(path))) as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()
