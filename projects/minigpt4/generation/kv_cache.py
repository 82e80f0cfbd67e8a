# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Keys and values of several rows, each at its own places."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache

from ..deprecated import renamed

# keys and values of each layer, each ``(heads, length, D)``
Stored = list[tuple[Tensor, Tensor]]


class View(NamedTuple):
    """Some slots of one layer, each ``(rows, heads, places, D)``."""

    keys: Tensor
    values: Tensor
    keys_seen: Tensor
    values_seen: Tensor


class KVCache(Cache):
    """A transformers cache of slots, which rows come to and leave.

    Each layer has one tensor of keys and one of values, ``(slots, heads,
    capacity + 1, D)``. A forward pass writes to a run of slots, each row at
    its own places, and sees the first ``used`` places of them, so a large
    capacity costs memory alone. What a row may look at is the caller's
    attention mask. The last place is never seen: padding is written there.
    """

    def __init__(self) -> None:
        # Cache's own constructor differs between versions and makes layer
        # objects, which this one has no use for
        if isinstance(self, torch.nn.Module):  # transformers below 4.50
            torch.nn.Module.__init__(self)
        self.layers: list = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots = 0
        self.capacity = 0
        self._now: tuple[int, Tensor, int] | None = None
        self._views: tuple[tuple[int, int, int], list[View]] | None = None

    @property
    def padding_place(self) -> int:
        """Where padding is written."""
        return self.capacity

    def reserve(self, slots: int, capacity: int) -> None:
        """Make room, keeping what is there."""
        slots, capacity = max(slots, self.slots), max(capacity, self.capacity)
        if (slots, capacity) == (self.slots, self.capacity):
            return
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                new = old.new_zeros(
                    slots, old.shape[1], capacity + 1, old.shape[3]
                )
                new[: self.slots, :, : self.capacity] = old[:, :, :-1]
                tensors[layer] = new
        self.slots, self.capacity = slots, capacity
        self._views = None

    def add_layer(self, keys: Tensor, values: Tensor) -> None:
        """Make a layer's tensors after keys and values ``(_, heads, _, D)``.

        They are zeros, for what is masked still has to be a number.
        """
        for tensors, like in ((self.keys, keys), (self.values, values)):
            shape = self.slots, like.shape[1], self.capacity + 1, like.shape[3]
            tensors.append(like.new_zeros(shape))
        self._views = None

    def begin(self, first: int, places: Tensor, used: int) -> None:
        """Say where the next pass of transformers writes and what it sees.

        Args:
            first: The slot of its first row.
            places: ``(rows, T)`` int64 places that each row is written to.
            used: Places that it sees, from the first.
        """
        self._now = first, places, used

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args,
        **kwargs,
    ) -> tuple[Tensor, Tensor]:
        """Write ``(rows, heads, T, D)`` and give what is seen."""
        assert self._now is not None, 'begin() comes before a pass'
        first, places, used = self._now
        if layer_idx == len(self.keys):
            self.add_layer(key_states, value_states)
        seen = []
        for tensor, new in (
            (self.keys[layer_idx], key_states),
            (self.values[layer_idx], value_states),
        ):
            rows, heads, _, width = new.shape
            index = places.to(new.device)[:, None, :, None]
            tensor = tensor[first : first + rows]
            tensor.scatter_(2, index.expand(-1, heads, -1, width), new)
            seen.append(tensor[:, :, :used])
        return seen[0], seen[1]

    def views(self, first: int, rows: int, used: int) -> list[View]:
        """What a pass over some slots works with, layer by layer."""
        key = first, rows, used
        if self._views is None or self._views[0] != key:
            slots = slice(first, first + rows)
            views = [
                View(
                    keys[slots],
                    values[slots],
                    keys[slots, :, :used],
                    values[slots, :, :used],
                )
                for keys, values in zip(self.keys, self.values, strict=True)
            ]
            self._views = key, views
        return self._views[1]

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        """Nothing that all rows share; positions are given with each pass."""
        return 0

    def take_out(self, slot: int, length: int) -> Stored:
        """A copy of the beginning of a slot."""
        return [
            (keys[slot, :, :length].clone(), values[slot, :, :length].clone())
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def put_in(self, slot: int, stored: Stored, length: int) -> None:
        """Copy the beginning of what was taken out into a slot."""
        for layer, (keys, values) in enumerate(stored):
            self.keys[layer][slot, :, :length] = keys[:, :length]
            self.values[layer][slot, :, :length] = values[:, :length]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the beginning of one slot to another."""
        for tensors in (self.keys, self.values):
            for tensor in tensors:
                tensor[target, :, :length] = tensor[source, :, :length]


__getattr__ = renamed(__name__, {'SlotCache': 'KVCache'})
