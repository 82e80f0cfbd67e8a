# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The settings of the step ``repair``."""

import hashlib
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..utils.regular_files import open_regular

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


class RepairSettings(BaseModel):
    """Settings of the step ``repair``, as plain fields of a config."""

    model_config = ConfigDict(extra='forbid', protected_namespaces=())

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
        default=60.0, gt=0, description='the longest wait for an answer'
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
        description='wait before the first further attempt; each next wait '
        'is twice as long, up to 30 s',
    )
    max_wait_seconds: float = Field(
        default=120.0,
        ge=0,
        description='the longest wait that a Retry-After of the endpoint may '
        'ask for; after a longer one the image fails',
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
        description='US dollars that all repairs in the ledger may cost; the '
        'run stops before it would exceed them',
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
        description='prompt template of the local model; null as in describe',
    )
    # recorded answers
    recorded: str | None = Field(
        default=None,
        description='JSONL file of answers, for the backend recorded',
    )
    record: str | None = Field(
        default=None, description='JSONL file to which each answer is appended'
    )
    guard: GuardSettings = Field(
        default_factory=GuardSettings,
        description='what to do with suspicious repairs',
    )

    @model_validator(mode='after')
    def _check(self) -> 'RepairSettings':
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

    def message(self, text: str) -> str:
        """Return the message that asks for the repair of a text."""
        return f'{self.prompt}\n\n{text}'

    def request_settings(self) -> dict[str, Any]:
        """Return what the answer to a message depends on, as JSON.

        The address of the endpoint is not part of it: a model may move to
        another address without all texts being repaired again.

        Raises:
            OSError: The file of recorded answers cannot be read.
        """
        if self.backend == 'none':
            return dict(backend='none')
        settings: dict[str, Any] = dict(
            backend=self.backend, prompt=self.prompt, model=self.model
        )
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

    def key_settings(self) -> dict[str, Any]:
        """Return what the results of the step depend on, as JSON."""
        settings: dict[str, Any] = dict(request=self.request_settings())
        if self.backend != 'none':
            settings['guard'] = self.guard.model_dump()
        return settings


def _digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_regular(Path(os.path.expanduser(path))) as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()
