# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A record as the LLM receives it in training: its tokens, one by one.

Tokenizer, template, lengths and text transforms are those of a model of the
hub or of a training config. The model is built without its weights.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from ..datasets.transforms import DrawFlip, LoadImages, PackSample
from ..llm.load import load_tokenizer
from ..prompts import Turn, get_template
from ..prompts.tokenization import IMAGE_SLOT
from ..registry import MODELS, TRANSFORMS
from ..utils.errors import one_line
from ..utils.sample_errors import SampleError
from ..weights.model_hub import our_models, unknown_model_error

# transforms that change images, not texts
_IMAGE_TRANSFORMS = ('LoadFeatures', 'ResizeEdge', 'PackInputs')


class Token(NamedTuple):
    """A token of a prompt.

    Attributes:
        id: Its id; None for an image slot.
        text: Its text, as the tokenizer writes it.
        supervised: Whether the loss includes it.
        count: Positions that it takes in the LLM: 1, or those of an image.
    """

    id: int | None
    text: str
    supervised: bool
    count: int = 1


class Prompt(NamedTuple):
    """The tokens of a record.

    Attributes:
        tokens: The tokens, in their order.
        length: Positions in the LLM, those of the images included.
        supervised: Tokens that the loss includes.
        truncated: Answers that were cut at ``max_text_length``.
        answer_lengths: Tokens of each answer before it is cut.
        fits: Whether the prompt fits into the context; training skips
            another one.
        turns: The turns after the transforms.
    """

    tokens: list[Token]
    length: int
    supervised: int
    truncated: int
    answer_lengths: list[int]
    fits: bool
    turns: Sequence[Turn]


class PromptTokens:
    """Makes the prompts of one model.

    Args:
        model: A name of the hub, or the file of a config. Of a training
            config the text transforms of the training set are applied too.

    Attributes:
        name: The model.
        max_text_length: The most tokens of an answer; None is no limit.
        context_length: The most positions of a prompt; None is no limit.
        num_image_tokens: Positions of one image.
        template_name: Name of the prompt template.

    Raises:
        ValueError: There is no such model, or it cannot be built.
        OSError: A file of the tokenizer is missing.
    """

    def __init__(self, model: str) -> None:
        self.name = model
        config = _read_config(model)
        settings = config.model.copy()
        settings.pop('device', None)
        try:
            with torch.device('meta'):
                built = MODELS.build(settings)
        except Exception as error:  # a config is a program
            raise ValueError(
                f'{model} cannot be built ({type(error).__name__}: '
                f'{one_line(error)}); give another --model.'
            ) from error
        tokenizer = load_tokenizer(settings['decoder']['name_or_path'])
        built.decoder.tokenizer = tokenizer
        name = settings.get('prompt_template', 'vicuna_v0')
        built.template = get_template(name, tokenizer)
        self._tokenizer = tokenizer
        self._collator = built.collator(training=True)
        self._complete = built.collator(training=True)
        self._complete.max_text_length = None
        self._transforms = _text_transforms(config)
        if not config.get('train_dataloader'):
            for collator in (self._collator, self._complete):
                collator.prompt = built.prompt
        self.max_text_length: int | None = built.max_text_length
        self.context_length: int | None = built.context_length
        self.num_image_tokens: int = built.num_image_tokens
        self.template_name = built.template.name

    def prompt(
        self, record_id: str, turns: Sequence[Turn], num_images: int
    ) -> Prompt:
        """Return the prompt of a record.

        Args:
            record_id: Its id, which draws a question where one is drawn.
            turns: Its turns.
            num_images: The number of its images.

        Raises:
            ValueError: The record cannot be used, e.g. it has more image
                slots than images; one sentence.
        """
        record: dict[str, Any] = dict(
            id=record_id,
            sample_index=record_id,
            images=[None] * num_images,
            turns=list(turns) or [Turn('')],
        )
        for transform in self._transforms:
            record = transform(record)
        sample = _Sample(id=record_id, **_images_and_turns(record))
        prompt = complete = self._collator.tokenize(sample)
        if prompt.truncated:
            complete = self._complete.tokenize(sample)
        tokens = []
        texts = self._tokenizer.convert_ids_to_tokens(
            [i for i in prompt.ids if i != IMAGE_SLOT]
        )
        remaining = iter(texts)
        for token_id, supervised in zip(
            prompt.ids, prompt.supervised, strict=True
        ):
            if token_id == IMAGE_SLOT:
                tokens.append(Token(None, '', False, self.num_image_tokens))
            else:
                tokens.append(Token(token_id, next(remaining), supervised))
        length = self._collator.length(prompt)
        limit = self.context_length
        return Prompt(
            tokens,
            length,
            sum(prompt.supervised),
            prompt.truncated,
            _run_lengths(complete.supervised),
            limit is None or length <= limit,
            sample.turns,
        )


class _Sample(SimpleNamespace):
    """What a collator reads of a sample."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)


def _images_and_turns(record: dict) -> dict[str, Any]:
    return {key: record[key] for key in ('images', 'turns')}


def _run_lengths(flags: Sequence[bool]) -> list[int]:
    """Return the lengths of the runs of True."""
    lengths = []
    before = False
    for flag in flags:
        if flag and not before:
            lengths.append(0)
        if flag:
            lengths[-1] += 1
        before = flag
    return lengths


def _read_config(model: str) -> Config:
    models = our_models()
    known = models.get(model.lower())
    if known is None and not model.endswith('.py'):
        raise unknown_model_error(model, models, 'the file of a config (.py)')
    try:
        config = Config.fromfile(known.config if known else model)
    except Exception as error:  # a config is a program
        raise ValueError(
            f'{model} cannot be read as a config ({type(error).__name__}: '
            f'{one_line(error)}).'
        ) from error
    if not isinstance(config.get('model'), dict):
        raise ValueError(f'{model} has no model; expected a config of one.')
    return config


def _text_transforms(config: Config) -> list[Callable[[dict], dict]]:
    """Build the transforms of the training set that change texts."""
    loader = config.get('train_dataloader') or {}
    pipeline = (loader.get('dataset') or {}).get('pipeline') or ()
    omitted = (LoadImages, PackSample, DrawFlip)
    names = {*_IMAGE_TRANSFORMS, *(kind.__name__ for kind in omitted)}
    found = []
    for entry in pipeline:
        kind = entry['type']
        name = kind if isinstance(kind, str) else kind.__name__
        if name.rpartition('.')[2] not in names:
            found.append(TRANSFORMS.build(dict(entry)))
    return found


def prompt_or_error(
    prompts: PromptTokens, item: Any
) -> tuple[Prompt | None, str]:
    """Return the prompt of a record, or why it has none.

    Args:
        prompts: Makes the prompts.
        item: A :class:`~.data_items.DataItem`.
    """
    try:
        return prompts.prompt(item.id, item.turns, len(item.images)), ''
    except (SampleError, ValueError) as error:
        return None, str(error)
