# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Batches: rows of token ids and image slots to tensors for the LLM.

All padding is here. It runs in the data workers, on plain integers, so that
the training thread only embeds, copies the image features into their places
and calls the LLM.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..prompts import (
    IMAGE_HERE,
    IMAGE_SLOT,
    PromptTemplate,
    Row,
    render,
    tokenize,
    with_images,
)


class MultimodalInputs(NamedTuple):
    """A padded batch of rows. ``B`` rows of ``T`` places, ``N`` images.

    Attributes:
        token_ids: ``(B, T)`` int64; 0 at pads and at image places.
        attention_mask: ``(B, T)`` int64; 0 at pads only.
        position_ids: ``(B, T)`` int64; counts from 0 in each row's own text.
        image_places: ``(N * num_image_tokens,)`` int64 places in the
            flattened ``B * T``, images in the order of their rows and slots.
        target_places: ``(M,)`` int64 places whose next token is learned.
        targets: ``(M,)`` int64, those next tokens.
    """

    token_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    image_places: Tensor
    target_places: Tensor
    targets: Tensor


def build_inputs(
    rows: Sequence[Row], num_image_tokens: int, padding: str = 'right'
) -> MultimodalInputs:
    """Pad rows into a batch; no row sees another.

    A last token that is only a target is never fed.

    Args:
        rows: The rows.
        num_image_tokens: Tokens of one image.
        padding: ``'right'`` (training) or ``'left'`` (generation).
    """
    lines = []
    for row in rows:
        ids, targets, image = [], [], []
        for token, supervised in zip(row.ids, row.supervised, strict=True):
            width = num_image_tokens if token == IMAGE_SLOT else 1
            ids += [0 if token == IMAGE_SLOT else token] * width
            image += [token == IMAGE_SLOT] * width
            targets += [token if supervised else -1] * width
        if targets[-1] >= 0:
            ids, image = ids[:-1], image[:-1]
        lines.append((ids, image, targets))
    length = max(len(ids) for ids, _, _ in lines)
    shape = (len(lines), length)
    token_ids = torch.zeros(shape, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    image_places: list[int] = []
    target_places: list[int] = []
    learned: list[int] = []
    for i, (ids, image, targets) in enumerate(lines):
        first = length - len(ids) if padding == 'left' else 0
        place = slice(first, first + len(ids))
        token_ids[i, place] = torch.tensor(ids)
        attention_mask[i, place] = 1
        position_ids[i, place] = torch.arange(len(ids))
        start = i * length + first
        image_places += [start + j for j, here in enumerate(image) if here]
        for j, target in enumerate(targets[1:]):
            if target >= 0:
                target_places.append(start + j)
                learned.append(target)
    return MultimodalInputs(
        token_ids,
        attention_mask,
        position_ids,
        torch.tensor(image_places, dtype=torch.long),
        torch.tensor(target_places, dtype=torch.long),
        torch.tensor(learned, dtype=torch.long),
    )


def split_batch(batch: dict, size: int | None) -> list[dict]:
    """Cut a collated batch into pieces of at most ``size`` rows.

    None takes the batch as it is; an empty batch has no piece.
    """
    inputs: MultimodalInputs | None = batch['inputs']
    if inputs is None:
        return []
    rows, length = inputs.token_ids.shape
    if size is None or size >= rows:
        return [batch]
    images = batch['images']
    pieces = []
    for start in range(0, rows, size):
        stop = min(start + size, rows)

        def inside(places: Tensor, start=start, stop=stop) -> Tensor:
            return (places >= start * length) & (places < stop * length)

        own = inside(inputs.image_places)
        learned = inside(inputs.target_places)
        pieces.append(
            dict(
                images=images[own.view(len(images), -1)[:, 0]]
                if own.any()
                else None,
                inputs=MultimodalInputs(
                    inputs.token_ids[start:stop],
                    inputs.attention_mask[start:stop],
                    inputs.position_ids[start:stop],
                    inputs.image_places[own] - start * length,
                    inputs.target_places[learned] - start * length,
                    inputs.targets[learned],
                ),
            )
        )
    return pieces


class Collator:
    """Samples to batches: renders, tokenises and pads, in the data workers.

    Built from the model (:meth:`MiniGPT4.collator`), so that neither the LLM
    nor the template is named twice.

    Args:
        tokenizer: The LLM's tokenizer.
        template: The prompt template.
        num_image_tokens: Tokens of one image.
        max_text_length: The most tokens of an answer (training).
        padding: ``'right'`` (training) or ``'left'`` (generation).
        prompt: The question of a sample that has none.
    """

    def __init__(
        self,
        tokenizer,
        template: PromptTemplate,
        num_image_tokens: int,
        max_text_length: int | None = None,
        padding: str = 'right',
        prompt: str = '',
    ) -> None:
        self.prompt = prompt
        self.tokenizer = tokenizer
        self.template = template
        self.num_image_tokens = num_image_tokens
        self.max_text_length = max_text_length
        self.padding = padding

    def row(self, sample) -> Row:
        """Tokenise one sample.

        Raises:
            ValueError: The prompt has more or fewer slots than images.
        """
        turns = list(sample.turns)
        turns[0] = replace(
            turns[0],
            question=with_images(
                turns[0].question or self.prompt,
                len(sample.images)
                if all(IMAGE_HERE not in turn.question for turn in turns)
                else 0,
                self.template,
            ),
        )
        row = tokenize(
            render(turns, self.template), self.tokenizer, self.max_text_length
        )
        if row.num_images != len(sample.images):
            raise ValueError(
                f'{row.num_images} image slots in the prompt but '
                f'{len(sample.images)} images were given (sample '
                f'{sample.get("id", "?")}); write {IMAGE_HERE} once per '
                'image.'
            )
        return row

    def __call__(self, samples: Sequence) -> dict:
        """Collate samples (None for one that could not be read).

        Returns:
            ``images`` ``(N, 3, H, W)`` uint8 or None without any image,
            ``inputs`` (:class:`MultimodalInputs`; None where no sample could
            be read), ``samples`` (those that could be read; None in training,
            where they would only travel), ``counts`` (``skipped`` samples,
            ``truncated`` answers) and, from a stream, its ``position``.
        """
        good = [sample for sample in samples if sample is not None]
        rows = [self.row(sample) for sample in good]
        images = [image for sample in good for image in sample.images]
        batch = dict(
            images=torch.stack(images) if images else None,
            inputs=build_inputs(rows, self.num_image_tokens, self.padding)
            if rows
            else None,
            samples=None if self.padding == 'right' else good,
            counts=dict(
                skipped=len(samples) - len(good),
                truncated=sum(row.truncated for row in rows),
            ),
        )
        if hasattr(samples, 'position'):
            batch['position'] = samples.position
        return batch
