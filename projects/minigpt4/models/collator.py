# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Batches: rows of token ids and image slots to tensors for the LLM.

All packing and padding is here. It runs in the data workers, on integers, so
that the training thread only embeds, copies the image features into their
places and calls the LLM.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import default_collate

from ..prompts import (
    IMAGE_HERE,
    IMAGE_SLOT,
    PromptTemplate,
    TokenizedPrompt,
    render,
    tokenize,
    with_images,
)
from ..prompts.text_validation import check_text
from ..utils.errors import printable

_NAMED = 20  # samples that are too long and named one by one


class MultimodalInputs(NamedTuple):
    """Rows in ``B`` lines of ``T`` places, with ``N`` images.

    A line holds one row, or several one after the other (packed), which do
    not see each other.

    Attributes:
        token_ids: ``(B, T)`` int64; 0 at pads and at image places.
        row_ids: ``(B, T)`` int64; the rows of a line count from 1, 0 at pads.
        position_ids: ``(B, T)`` int64; counts from the length of ``prefix``
            in each row.
        image_places: ``(N * num_image_tokens,)`` int64 places in the
            flattened ``B * T``, images in the order of their rows and slots.
        target_places: ``(M,)`` int64 places whose next token is learned.
        targets: ``(M,)`` int64, those next tokens.
        row_places: ``(R, W)`` int64 places of each row, 0 behind its end.
        row_backs: ``(B, T)`` int64 places in the flattened ``R * W``, 0 at
            pads.
        packed: Whether a line holds more than one row.
        prefix: Token ids that stand in front of every row and are not in
            ``token_ids``; their keys and values are stored.
    """

    token_ids: Tensor
    row_ids: Tensor
    position_ids: Tensor
    image_places: Tensor
    target_places: Tensor
    targets: Tensor
    row_places: Tensor
    row_backs: Tensor
    packed: bool = False
    prefix: tuple[int, ...] = ()

    @property
    def attention_mask(self) -> Tensor:
        """``(B, T)`` int64; 0 at pads only."""
        return (self.row_ids > 0).long()

    def block_mask(self) -> Tensor:
        """``(B, 1, T, T)`` bool: what each place may look at.

        Its own row up to itself. Built where the tensors are, without waiting
        for them.
        """
        rows = self.row_ids
        length = rows.shape[1]
        same = rows[:, :, None] == rows[:, None, :]
        order = torch.arange(length, device=rows.device)
        return (same & (order[:, None] >= order))[:, None]


class _Line(NamedTuple):
    """A row, image slots widened; ``learned`` is -1 where nothing is."""

    ids: np.ndarray
    is_image: np.ndarray
    learned: np.ndarray


def _widen(row: TokenizedPrompt, num_image_tokens: int, start: int) -> _Line:
    """A row from its token ``start`` on; a mere target at its end unfed."""
    ids = np.array(row.ids[start:])
    slots = ids == IMAGE_SLOT
    widths = np.where(slots, num_image_tokens, 1)
    learned = np.where(row.supervised[start:], ids, -1)
    stop = -1 if learned[-1] >= 0 else None
    return _Line(
        np.repeat(np.where(slots, 0, ids), widths)[:stop],
        np.repeat(slots, widths)[:stop],
        np.repeat(learned, widths),
    )


def _common_prefix(rows: Sequence[TokenizedPrompt]) -> tuple[int, ...]:
    """The text that all rows begin with, before any image or target."""
    first = rows[0].ids
    length = len(first)
    for row in rows:
        # the token before a target has to be fed with the row
        stop = (
            row.supervised.index(True) - 1
            if True in row.supervised
            else len(row.ids) - 1
        )
        if IMAGE_SLOT in row.ids:
            stop = min(stop, row.ids.index(IMAGE_SLOT))
        length = min(length, max(stop, 0))
        while row.ids[:length] != first[:length]:
            length -= 1
    return tuple(first[:length])


def _pack(
    lengths: Sequence[int], line_length: float | None
) -> list[list[int]]:
    """Share rows out to lines of about ``line_length``, as even as may be.

    The longest row goes first, each to the line with the most room.
    """
    if line_length is None:
        return [[i] for i in range(len(lengths))]
    number = max(1, round(sum(lengths) / max(line_length, *lengths)))
    lines: list[list[int]] = [[] for _ in range(number)]
    filled = [0] * number
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = filled.index(min(filled))
        lines[line].append(i)
        filled[line] += lengths[i]
    return [line for line in lines if line]


def build_inputs(
    rows: Sequence[TokenizedPrompt],
    num_image_tokens: int,
    padding: str = 'right',
    line_length: float | None = None,
    share_prefix: bool = False,
) -> MultimodalInputs:
    """Lay rows into lines; no row sees another.

    A last token that is only a target is never fed.

    Args:
        rows: The rows.
        num_image_tokens: Tokens of one image.
        padding: ``'right'`` (training) or ``'left'`` (generation).
        line_length: Tokens of a line that rows are packed into; None gives
            each row a line of its own.
        share_prefix: Whether to leave out what all rows begin with.
    """
    prefix = _common_prefix(rows) if share_prefix else ()
    parts = [_widen(row, num_image_tokens, len(prefix)) for row in rows]
    lines = _pack([len(part.ids) for part in parts], line_length)
    length = max(sum(len(parts[i].ids) for i in line) for line in lines)
    token_ids = np.zeros((len(lines), length), dtype=np.int64)
    row_ids = np.zeros_like(token_ids)
    position_ids = np.zeros_like(token_ids)
    places: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(parts)
    for number, line in enumerate(lines):
        at = 0
        if padding == 'left':
            at = length - sum(len(parts[i].ids) for i in line)
        for count, i in enumerate(line, start=1):
            width = len(parts[i].ids)
            token_ids[number, at : at + width] = parts[i].ids
            row_ids[number, at : at + width] = count
            position_ids[number, at : at + width] = np.arange(
                len(prefix), len(prefix) + width
            )
            places[i] = number * length + at + np.arange(width)
            at += width
    row_places = np.zeros((len(parts), max(map(len, places))), dtype=np.int64)
    row_backs = np.zeros_like(token_ids)
    for i, own in enumerate(places):
        row_places[i, : len(own)] = own
        row_backs.flat[own] = i * row_places.shape[1] + np.arange(len(own))
    nexts = [part.learned[1 : len(part.ids) + 1] for part in parts]
    # a row whose last token is fed has nothing to learn there
    has_target = [
        np.pad(n >= 0, (0, len(p) - len(n))) for n, p in zip(nexts, places)
    ]

    def joined(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int64))

    return MultimodalInputs(
        torch.from_numpy(token_ids),
        torch.from_numpy(row_ids),
        torch.from_numpy(position_ids),
        joined([p[part.is_image] for p, part in zip(places, parts)]),
        joined([p[has] for p, has in zip(places, has_target)]),
        joined([n[n >= 0] for n in nexts]),
        torch.from_numpy(row_places),
        torch.from_numpy(row_backs),
        len(lines) < len(rows),
        prefix,
    )


def _stack(images: Sequence[Tensor]) -> Tensor:
    """``(N, 3, H, W)`` of images, or ``(N, Q, C)`` of stored queries.

    Pixels stay side by side as decoders give them, and a data worker copies
    them at once into the memory that it shares.
    """
    if images[0].ndim < 3:
        return default_collate(list(images))
    rows = [image.permute(1, 2, 0) for image in images]
    return default_collate(rows).permute(0, 3, 1, 2)


class Collator:
    """Samples to batches: rendered, tokenised, packed in the data workers.

    Built from the model (:meth:`MiniGPT4.collator`), so that neither the LLM
    nor the template is named twice.

    Args:
        tokenizer: The LLM's tokenizer.
        template: The prompt template.
        num_image_tokens: Tokens of one image.
        max_text_length: The most tokens of an answer (training).
        padding: ``'right'`` (training) or ``'left'`` (generation).
        prompt: The question of a sample that has none.
        micro_batch_size: The most samples of a piece of a training batch.
        line_length: See :func:`build_inputs`.
        share_prefix: See :func:`build_inputs`.
        max_length: The most tokens of a row, images included; a sample with
            more is left out of its batch, named and counted as skipped. None
            takes any.
    """

    def __init__(
        self,
        tokenizer,
        template: PromptTemplate,
        num_image_tokens: int,
        max_text_length: int | None = None,
        padding: str = 'right',
        prompt: str = '',
        micro_batch_size: int | None = None,
        line_length: float | None = None,
        share_prefix: bool = False,
        max_length: int | None = None,
    ) -> None:
        self.max_length = max_length
        self._too_long = 0
        self.prompt = prompt
        self.micro_batch_size = micro_batch_size
        self.line_length = line_length
        self.share_prefix = share_prefix
        self.tokenizer = tokenizer
        self.template = template
        self.num_image_tokens = num_image_tokens
        self.max_text_length = max_text_length
        self.padding = padding

    def row(self, sample) -> TokenizedPrompt:
        """Tokenise one sample.

        Raises:
            ValueError: The prompt has more or fewer slots than images, or a
                question that
                :func:`~minigpt4.prompts.text_validation.check_text` refuses.
        """
        turns = [
            replace(
                turn,
                question=check_text(
                    turn.question, 'the question', allow_empty=True
                ),
            )
            for turn in sample.turns
        ]
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

    def length(self, row: TokenizedPrompt) -> int:
        """Tokens of a row, those of its images included."""
        return len(row.ids) + row.num_images * (self.num_image_tokens - 1)

    def takes(self, sample, row: TokenizedPrompt) -> bool:
        """Whether a row is within ``max_length``; one that is not is named."""
        length = self.length(row)
        if self.max_length is None or length <= self.max_length:
            return True
        self._too_long += 1
        if self._too_long <= _NAMED:
            name = printable(str(sample.get('id', '?')))[:200]
            print_log(
                f'skipped: sample {name} has {length} tokens, at most '
                f'{self.max_length} fit into the context of the LLM; shorten '
                'its text.',
                logger='current',
                level=logging.WARNING,
            )
        return False

    def __call__(self, samples: Sequence) -> dict:
        """Collate samples (None for one that could not be read).

        A sample that is longer than ``max_length`` is left out as well.

        Returns:
            For training ``pieces``, a list of dicts of ``images`` ``(N, 3, H,
            W)`` uint8 (None without any) and ``inputs``
            (:class:`MultimodalInputs`), each of at most ``micro_batch_size``
            samples. For generation ``images`` and ``inputs`` (None where no
            sample could be read) and ``samples``, those that could be.
            Always ``counts``, of ``samples``, ``tokens``, ``skipped``
            samples and ``truncated`` answers, and from a stream its
            ``position``.
        """
        good, rows = [], []
        for sample in samples:
            if sample is None:
                continue
            row = self.row(sample)
            if self.takes(sample, row):
                good.append(sample)
                rows.append(row)
        batch: dict = dict(
            counts=dict(
                samples=len(good),
                tokens=sum(map(self.length, rows)),
                skipped=len(samples) - len(good),
                truncated=sum(row.truncated for row in rows),
            )
        )
        if self.padding == 'left':
            batch['samples'] = good
            batch |= self._piece(good, rows)
        else:
            size = self.micro_batch_size or max(len(good), 1)
            batch['pieces'] = [
                self._piece(good[i : i + size], rows[i : i + size])
                for i in range(0, len(good), size)
            ]
        if hasattr(samples, 'position'):
            batch['position'] = samples.position
        return batch

    def _piece(
        self, samples: Sequence, rows: Sequence[TokenizedPrompt]
    ) -> dict:
        images = [image for sample in samples for image in sample.images]
        return dict(
            images=_stack(images) if images else None,
            inputs=build_inputs(
                rows,
                self.num_image_tokens,
                self.padding,
                self.line_length,
                self.share_prefix,
            )
            if rows
            else None,
        )
