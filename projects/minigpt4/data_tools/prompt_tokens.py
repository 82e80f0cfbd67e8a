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
from ..prompts.tokenization import IMAGE_SLOT, encode
from ..registry import MODELS, TRANSFORMS
from ..utils.errors import one_line
from ..utils.sample_errors import SampleError
from ..weights.model_hub import our_models, unknown_model_error

_INCOMPLETE = '\ufffd'  # the text of a part of a character
_MAX_BYTES = 4  # of a character
# transforms that change images, not texts
_IMAGE_TRANSFORMS = ('LoadFeatures', 'ResizeEdge', 'PackInputs')


class Token(NamedTuple):
    """A token of a prompt.

    Attributes:
        id: Its id; None for an image slot.
        text: Its text. Where several tokens are one character, the first
            has it and the others have none.
        supervised: Whether the loss includes it.
        cut: Whether it is cut, because its answer is too long.
        positions: Positions that it takes in the LLM: 1, or those of an image.
    """

    id: int | None
    text: str
    supervised: bool
    cut: bool = False
    positions: int = 1


class Prompt(NamedTuple):
    """The tokens of a record.

    Attributes:
        ids: The token ids with ``IMAGE_SLOT`` for an image, those that are
            cut included.
        supervised: For each id, whether it belongs to an answer.
        length: Positions in the LLM without what is cut, images included.
        truncated: Answers that are cut at ``max_text_length``.
        answer_lengths: Tokens of each answer before it is cut.
        fits: Whether the prompt fits into the context; training skips
            another one.
    """

    ids: Sequence[int]
    supervised: Sequence[bool]
    length: int
    truncated: int
    answer_lengths: list[int]
    fits: bool


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
        self._anchor = encode(tokenizer, 'a')
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
        length = self._collator.length(prompt)
        limit = self.context_length
        return Prompt(
            complete.ids,
            complete.supervised,
            length,
            prompt.truncated,
            _run_lengths(complete.supervised),
            limit is None or length <= limit,
        )

    def tokens(self, prompt: Prompt) -> list[Token]:
        """Return the tokens of a prompt with their texts."""
        found: list[Token] = []
        position = 0  # in the answer
        for token_id, text, supervised in zip(
            prompt.ids,
            self._texts(prompt.ids),
            prompt.supervised,
            strict=True,
        ):
            position = position + 1 if supervised else 0
            if token_id == IMAGE_SLOT:
                size = self.num_image_tokens
                found.append(Token(None, '', False, positions=size))
                continue
            limit = self.max_text_length
            cut = bool(limit) and position > (limit or 0)
            found.append(Token(token_id, text, supervised and not cut, cut))
        return found

    def _texts(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token."""
        texts: list[str] = []
        start = 0  # of the tokens of an incomplete character
        for i, token_id in enumerate(ids):
            if token_id == IMAGE_SLOT:
                texts.append('')
                start = i + 1
                continue
            text = self._decode(ids[start : i + 1])
            texts.append('')
            if text.endswith(_INCOMPLETE) and i - start < _MAX_BYTES - 1:
                continue
            texts[start] = text
            start = i + 1
        if start < len(ids):
            texts[start] = self._decode(ids[start:])
        return texts

    def _decode(self, ids: Sequence[int]) -> str:
        """Decode tokens inside a text, so that a first space remains."""
        options = dict(
            skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        before = self._tokenizer.decode(self._anchor, **options)
        after = self._tokenizer.decode([*self._anchor, *ids], **options)
        return after.removeprefix(before)


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
