# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tokenised prompts to padded or packed tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..prompts import IMAGE_SLOT, TokenizedPrompt


class MultimodalInputs(NamedTuple):
    """``S`` sequences in ``B`` packs of ``T`` positions, with ``N`` images.

    A pack holds one sequence, or several one after another, which do not
    attend to each other.

    Attributes:
        token_ids: ``(B, T)`` int64; 0 at pads and at image positions.
        sequence_ids: ``(B, T)`` int64; number of the sequence in its pack,
            from 1; 0 at pads.
        position_ids: ``(B, T)`` int64; in each sequence from the length of
            ``prefix`` on.
        image_positions: ``(N * num_image_tokens,)`` int64 indices in the
            flattened ``B * T``, images in the order of the sequences and
            their image slots.
        target_positions: ``(M,)`` int64 indices in the flattened ``B * T``,
            the positions whose next token is supervised.
        targets: ``(M,)`` int64, these next tokens.
        unpack_index: ``(S, W)`` int64 indices in the flattened ``B * T``, for
            each position of a sequence; 0 behind its end.
        pack_index: ``(B, T)`` int64 indices in the flattened ``S * W``; 0 at
            pads.
        target_counts: ``(S,)`` int64, number of targets of each sequence.
        packed: Whether a pack holds more than one sequence.
        prefix: Token ids that all sequences begin with and that are not in
            ``token_ids``; their K and V are stored.
    """

    token_ids: Tensor
    sequence_ids: Tensor
    position_ids: Tensor
    image_positions: Tensor
    target_positions: Tensor
    targets: Tensor
    unpack_index: Tensor
    pack_index: Tensor
    target_counts: Tensor
    packed: bool = False
    prefix: tuple[int, ...] = ()

    @property
    def attention_mask(self) -> Tensor:
        """``(B, T)`` int64; 0 at pads only."""
        return (self.sequence_ids > 0).long()

    def block_mask(self) -> Tensor:
        """``(B, 1, T, T)`` bool: causal attention in each sequence.

        Built on the device of the tensors, without a synchronisation.
        """
        ids = self.sequence_ids
        order = torch.arange(ids.shape[1], device=ids.device)
        same_sequence = ids[:, :, None] == ids[:, None, :]
        return (same_sequence & (order[:, None] >= order))[:, None]


class _Sequence(NamedTuple):
    """A prompt whose image slots have their number of positions.

    Attributes:
        ids: Token ids, 0 at image positions.
        is_image: Whether each is an image position.
        supervised: Token ids that are supervised, else -1; longer than
            ``ids`` by one where the last token is only a target.
    """

    ids: np.ndarray
    is_image: np.ndarray
    supervised: np.ndarray


def _expand_images(
    prompt: TokenizedPrompt, num_image_tokens: int, start: int
) -> _Sequence:
    """Expand the image slots of a prompt from its token ``start`` on.

    A last token that is only a target is not an input.
    """
    ids = np.array(prompt.ids[start:])
    slots = ids == IMAGE_SLOT
    widths = np.where(slots, num_image_tokens, 1)
    supervised = np.where(prompt.supervised[start:], ids, -1)
    stop = -1 if supervised[-1] >= 0 else None
    return _Sequence(
        np.repeat(np.where(slots, 0, ids), widths)[:stop],
        np.repeat(slots, widths)[:stop],
        np.repeat(supervised, widths),
    )


def _common_prefix(prompts: Sequence[TokenizedPrompt]) -> tuple[int, ...]:
    """The text that all prompts begin with, before any image or target."""
    first = prompts[0].ids
    length = len(first)
    for prompt in prompts:
        # the token before a target has to stay in the sequence
        stop = (
            prompt.supervised.index(True) - 1
            if True in prompt.supervised
            else len(prompt.ids) - 1
        )
        if IMAGE_SLOT in prompt.ids:
            stop = min(stop, prompt.ids.index(IMAGE_SLOT))
        length = min(length, max(stop, 0))
        while prompt.ids[:length] != first[:length]:
            length -= 1
    return tuple(first[:length])


def _assign_packs(
    lengths: Sequence[int], pack_length: float | None
) -> list[list[int]]:
    """Assign sequences to packs of about ``pack_length`` tokens.

    The longest sequence comes first, each in the pack with the most room.
    """
    if pack_length is None:
        return [[i] for i in range(len(lengths))]
    number = max(1, round(sum(lengths) / max(pack_length, *lengths)))
    packs: list[list[int]] = [[] for _ in range(number)]
    filled = [0] * number
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        pack = filled.index(min(filled))
        packs[pack].append(i)
        filled[pack] += lengths[i]
    return [pack for pack in packs if pack]


def build_inputs(
    prompts: Sequence[TokenizedPrompt],
    num_image_tokens: int,
    padding: str = 'right',
    pack_length: float | None = None,
    share_prefix: bool = False,
) -> MultimodalInputs:
    """Pack or pad prompts; no prompt attends to another.

    A last token that is only a target is not an input.

    Args:
        prompts: The prompts.
        num_image_tokens: Tokens of one image.
        padding: ``'right'`` (training) or ``'left'`` (generation).
        pack_length: Tokens of a pack; None puts each prompt into a pack of
            its own.
        share_prefix: Whether to omit the common prefix of the prompts.
    """
    prefix = _common_prefix(prompts) if share_prefix else ()
    sequences = [
        _expand_images(prompt, num_image_tokens, len(prefix))
        for prompt in prompts
    ]
    lengths = [len(sequence.ids) for sequence in sequences]
    packs = _assign_packs(lengths, pack_length)
    pack_lengths = [sum(lengths[i] for i in pack) for pack in packs]
    width = max(pack_lengths)
    token_ids = np.zeros((len(packs), width), dtype=np.int64)
    sequence_ids = np.zeros_like(token_ids)
    position_ids = np.zeros_like(token_ids)
    # indices of each sequence in the flattened token_ids
    indices: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(prompts)
    for number, pack in enumerate(packs):
        start = width - pack_lengths[number] if padding == 'left' else 0
        for count, i in enumerate(pack, start=1):
            span = slice(start, start + lengths[i])
            token_ids[number, span] = sequences[i].ids
            sequence_ids[number, span] = count
            position_ids[number, span] = len(prefix) + np.arange(lengths[i])
            indices[i] = number * width + start + np.arange(lengths[i])
            start += lengths[i]
    unpack_index = np.zeros((len(prompts), max(lengths)), dtype=np.int64)
    pack_index = np.zeros_like(token_ids)
    for i, own in enumerate(indices):
        unpack_index[i, : len(own)] = own
        pack_index.flat[own] = i * unpack_index.shape[1] + np.arange(len(own))
    next_tokens = [
        sequence.supervised[1 : len(sequence.ids) + 1]
        for sequence in sequences
    ]
    # an input at the end of a sequence has no next token
    has_target = [
        np.pad(tokens >= 0, (0, length - len(tokens)))
        for tokens, length in zip(next_tokens, lengths, strict=True)
    ]

    def joined(arrays: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(arrays).astype(np.int64))

    return MultimodalInputs(
        torch.from_numpy(token_ids),
        torch.from_numpy(sequence_ids),
        torch.from_numpy(position_ids),
        joined([own[s.is_image] for own, s in zip(indices, sequences)]),
        joined([own[has] for own, has in zip(indices, has_target)]),
        joined([tokens[tokens >= 0] for tokens in next_tokens]),
        torch.from_numpy(unpack_index),
        torch.from_numpy(pack_index),
        torch.tensor([int(has.sum()) for has in has_target]),
        len(packs) < len(prompts),
        prefix,
    )
