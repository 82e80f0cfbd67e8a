# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""KV cache of several requests, one slot for each."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache

from ..deprecated import renamed

# K and V tensors of each layer, each ``(KV heads, length, D)``
OffloadedKV = list[tuple[Tensor, Tensor]]

_MIN_CAPACITY = 256


class LayerView(NamedTuple):
    """Neighbouring slots of one layer, ``(slots, KV heads, positions, D)``.

    Attributes:
        keys: K of all positions, to write to.
        values: V of all positions, to write to.
        visible_keys: K of the positions that a pass attends to.
        visible_values: V of the positions that a pass attends to.
    """

    keys: Tensor
    values: Tensor
    visible_keys: Tensor
    visible_values: Tensor


class KVCache(Cache):
    """The KV slots of all requests, and the only owner of these slots.

    Each layer has one K tensor and one V tensor, ``(slots, KV heads,
    capacity + 1, D)``. Allocated slots are always the first ones. A forward
    pass writes to neighbouring slots, in each at its own positions, and
    attends to the first positions of these slots only, so a large capacity
    costs memory but no time. Which positions a token attends to is decided by
    the caller's attention mask. The last position is never attended to:
    padding is written there.

    Attributes:
        keys: K tensor of each layer.
        values: V tensor of each layer.
        capacity: Tokens that fit into a slot.
        lengths: Tokens in each allocated slot.
    """

    def __init__(self) -> None:
        # the constructor of Cache differs between versions of transformers
        # and creates layer objects, which this class does not use
        if isinstance(self, torch.nn.Module):  # transformers below 4.50
            torch.nn.Module.__init__(self)
        self.layers: list = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.capacity = 0
        self.lengths: list[int] = []
        self._num_slots = 0  # first dimension of the tensors
        self._released: set[int] = set()
        self._pass: tuple[int, Tensor, int] | None = None
        self._views: tuple[tuple[int, int, int], list[LayerView]] | None = None

    @property
    def padding_position(self) -> int:
        """Position that padding is written to."""
        return self.capacity

    def allocate(self, number: int, length: int) -> range:
        """Allocate the next slots.

        Args:
            number: How many.
            length: Tokens that each slot has to hold.

        Returns:
            The slots.
        """
        first = len(self.lengths)
        self.reserve(first + number, length)
        self.lengths += [0] * number
        return range(first, first + number)

    def release(self, slot: int) -> None:
        """Mark a slot as free; :meth:`compact` has to follow."""
        self._released.add(slot)

    def compact(self) -> list[tuple[int, int]]:
        """Move the last allocated slots into released ones.

        The contents of released slots behind the allocated ones stay in the
        tensors until the slot is allocated again.

        Returns:
            ``(source, target)`` of each move, in order.
        """
        moves = []
        while self._released:
            last = len(self.lengths) - 1
            if last in self._released:
                self._released.remove(last)
            else:
                target = min(self._released)
                self._released.remove(target)
                self.copy_slot(last, target, self.lengths[last])
                self.lengths[target] = self.lengths[last]
                moves.append((last, target))
            self.lengths.pop()
        return moves

    def clear(self) -> None:
        """Release all slots."""
        self.lengths.clear()
        self._released.clear()

    def reserve(self, slots: int, length: int) -> None:
        """Enlarge the tensors where needed; their contents are retained.

        Args:
            slots: Slots that are needed.
            length: Tokens that each slot has to hold.
        """
        slots = max(slots, self._num_slots)
        capacity = max(self.capacity, _MIN_CAPACITY)
        while capacity < length:
            capacity *= 2
        if (slots, capacity) == (self._num_slots, self.capacity):
            return
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                new = old.new_zeros(
                    slots, old.shape[1], capacity + 1, old.shape[3]
                )
                new[: self._num_slots, :, : self.capacity] = old[:, :, :-1]
                tensors[layer] = new
        self._num_slots, self.capacity = slots, capacity
        self._views = None

    def add_layer(self, keys: Tensor, values: Tensor) -> None:
        """Create the tensors of a layer.

        They are zeros, because masked entries must be finite.

        Args:
            keys: ``(_, KV heads, _, D)``, for the shape, dtype and device.
            values: ``(_, KV heads, _, D)``, likewise.
        """
        for tensors, like in ((self.keys, keys), (self.values, values)):
            tensors.append(
                like.new_zeros(
                    self._num_slots,
                    like.shape[1],
                    self.capacity + 1,
                    like.shape[3],
                )
            )
        self._views = None

    def set_pass(
        self, first_slot: int, positions: Tensor, visible_length: int
    ) -> None:
        """Set where the next pass of transformers writes and what it reads.

        Args:
            first_slot: Slot of the first request.
            positions: ``(B, T)`` int64, the positions in its slot that each
                request is written to.
            visible_length: Number of positions that the pass attends to, from
                the first.
        """
        self._pass = first_slot, positions, visible_length

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Write ``(B, KV heads, T, D)``; returns the visible K and V.

        Called by the attention layers of transformers.
        """
        assert self._pass is not None, 'set_pass() comes before a pass'
        first_slot, positions, visible_length = self._pass
        if layer_idx == len(self.keys):
            self.add_layer(key_states, value_states)
        visible = []
        for tensor, new in (
            (self.keys[layer_idx], key_states),
            (self.values[layer_idx], value_states),
        ):
            batch, heads, _, width = new.shape
            index = positions.to(new.device)[:, None, :, None]
            tensor = tensor[first_slot : first_slot + batch]
            tensor.scatter_(2, index.expand(-1, heads, -1, width), new)
            visible.append(tensor[:, :, :visible_length])
        return visible[0], visible[1]

    def views(
        self, first_slot: int, number: int, visible_length: int
    ) -> list[LayerView]:
        """Views of neighbouring slots, one for each layer."""
        arguments = first_slot, number, visible_length
        if self._views is None or self._views[0] != arguments:
            slots = slice(first_slot, first_slot + number)
            views = [
                LayerView(
                    keys[slots],
                    values[slots],
                    keys[slots, :, :visible_length],
                    values[slots, :, :visible_length],
                )
                for keys, values in zip(self.keys, self.values, strict=True)
            ]
            self._views = arguments, views
        return self._views[1]

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        """Return 0: slots share no length, each pass gets its positions."""
        return 0

    def offload_slot(self, slot: int, length: int) -> OffloadedKV:
        """Copy the first ``length`` tokens of a slot to tensors of its own."""
        return [
            (keys[slot, :, :length].clone(), values[slot, :, :length].clone())
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def restore_slot(
        self, slot: int, stored: OffloadedKV, length: int
    ) -> None:
        """Copy the first ``length`` offloaded tokens into a slot."""
        for layer, (keys, values) in enumerate(stored):
            self.keys[layer][slot, :, :length] = keys[:, :length]
            self.values[layer][slot, :, :length] = values[:, :length]

    def copy_slot(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of one slot to another."""
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                tensor[target, :, :length] = tensor[source, :, :length]


__getattr__ = renamed(__name__, {'SlotCache': 'KVCache'})
