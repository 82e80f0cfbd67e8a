# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the engine has the model compute: prompts, images, the next scores."""

import hashlib
import inspect
import logging
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from mmengine.logging import print_log
from torch import Tensor

from .. import compat
from ..prompts import IMAGE_SLOT, TokenizedPrompt
from .fast_llama import LlamaPass, is_plain_llama
from .kv_cache import KVCache

if TYPE_CHECKING:
    from ..models.decoder import LLMDecoder
    from ..models.minigpt4 import MiniGPT4

_STRIDE = 16  # places that are seen are counted in these
_FIRST_CAPACITY = 256
_STORED_IMAGES = 256
_IMAGES_AT_ONCE = 16
_FITS: MutableMapping = WeakKeyDictionary()  # LLMs, whether they fit slots


class ModelRunner:
    """Reads prompts and what is said after them into slots.

    Args:
        model: The model.
        compile: Whether to compile the pass of one token.

    Attributes:
        cache: The keys and values of the slots.
        fits: Whether the LLM can work with slots at all.
    """

    def __init__(self, model: 'MiniGPT4', compile: bool = False) -> None:
        self.model = model
        self.decoder = model.decoder
        self.cache = KVCache()
        self._features: OrderedDict[int, Tensor] = OrderedDict()
        self._llama: LlamaPass | None = None
        with torch.inference_mode():
            self.fits = fits_slots(self.decoder)
        if self.fits and is_plain_llama(self.decoder.llm):
            self._llama = LlamaPass(self.decoder.llm, compile)
        elif compile:
            print_log(
                f'only a plain LLaMA is compiled; {self.decoder.name_or_path} '
                'runs as it is.',
                logger='current',
                level=logging.WARNING,
            )

    def keys(
        self, row: TokenizedPrompt, images: Sequence[Tensor]
    ) -> list[int]:
        """What tells the places of a prompt apart.

        A token's id, or a negative number that stands for an image's pixels.
        """
        digests = iter([digest(image) for image in images])
        number = self.model.neck.num_tokens
        keys: list[int] = []
        for token in row.ids:
            if token == IMAGE_SLOT:
                keys += [next(digests)] * number
            else:
                keys.append(token)
        return keys

    def see(self, images: Mapping[int, Tensor]) -> None:
        """Let backbone, neck and head see images, by their digest, at once.

        Those that were seen lately are not looked at again.
        """
        unseen = [d for d in images if d not in self._features]
        for start in range(0, len(unseen), _IMAGES_AT_ONCE):
            digests = unseen[start : start + _IMAGES_AT_ONCE]
            preprocessor = self.model.data_preprocessor
            # not in inference mode, for which a backbone that was compiled
            # for training would be compiled anew
            with torch.inference_mode(False), torch.no_grad():
                pixels = torch.stack([images[d] for d in digests])
                if pixels.dtype == torch.uint8:
                    pixels = preprocessor.normalize(pixels)
                tokens = self.model.head(
                    self.model.queries(pixels.to(preprocessor.device))
                )
            self._features.update(zip(digests, tokens, strict=True))
        for d in images:
            self._features.move_to_end(d)
        while len(self._features) > max(_STORED_IMAGES, len(images)):
            self._features.popitem(last=False)

    def embed(self, keys: Sequence[int], start: int) -> Tensor:
        """``(T, hidden_size)`` of a prompt from a place on.

        Its images have been seen.
        """
        ids = torch.tensor([max(key, 0) for key in keys[start:]])
        embeddings = self.decoder.embed(self.decoder.enter(ids))
        number = self.model.neck.num_tokens
        at = 0
        while at < len(keys):
            if keys[at] >= 0:
                at += 1
                continue
            feature = self._features[keys[at]][max(start - at, 0) :]
            begin = max(at - start, 0)
            if len(feature):
                embeddings[begin : begin + len(feature)] = feature.to(
                    embeddings
                )
            at += number
        return embeddings

    def reserve(self, slots: int, length: int) -> None:
        """Make room for rows of so many tokens."""
        capacity = max(self.cache.capacity, _FIRST_CAPACITY)
        while capacity < length:
            capacity *= 2
        self.cache.reserve(slots, capacity)

    def read(
        self, prompts: Sequence[Tensor], starts: Sequence[int], first: int
    ) -> Tensor:
        """Read what is new of some prompts into slots.

        Args:
            prompts: ``(T, hidden_size)`` embeddings of what is new, for
                neighbouring slots.
            starts: How many tokens are there already.
            first: The slot of the first.

        Returns:
            ``(rows, vocab_size)`` scores of the tokens that come next.
        """
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        embeddings = torch.nn.utils.rnn.pad_sequence(
            list(prompts), batch_first=True
        )
        order = torch.arange(embeddings.shape[1])[None]
        padding = order >= lengths[:, None]
        positions = order + torch.tensor(starts)[:, None]
        places = positions.masked_fill(padding, self.cache.padding_place)
        positions = positions.masked_fill(padding, 0)
        hidden = self._pass(embeddings, positions, places, first)
        return self.decoder.logits(
            hidden[torch.arange(len(lengths)), lengths - 1]
        )

    def read_branches(
        self, branches: Sequence[Sequence[int]], start: int, slot: int
    ) -> Tensor:
        """Read several continuations of what a slot holds, side by side.

        None sees another. The slot holds nothing of use behind ``start``
        afterwards.

        Args:
            branches: Their token ids.
            start: How many tokens the slot holds.
            slot: The slot.

        Returns:
            ``(T, vocab_size)`` scores of what comes after each token, branch
            after branch.
        """
        ids = [token for branch in branches for token in branch]
        order = [i for branch in branches for i in range(len(branch))]
        numbers = [n for n, b in enumerate(branches) for _ in b]
        branch = torch.tensor(numbers)
        places = start + torch.arange(len(ids))
        hidden = self._pass(
            self.decoder.embed(self.decoder.enter(torch.tensor([ids]))),
            start + torch.tensor([order]),
            places[None],
            slot,
            seen=torch.cat(
                (
                    torch.ones(len(ids), start, dtype=torch.bool),
                    (branch[:, None] == branch) & (places[:, None] >= places),
                ),
                dim=1,
            )[None, None],
        )
        return self.decoder.logits(hidden[0])

    def next(self, ids: Sequence[int], places: Sequence[int]) -> Tensor:
        """Read one token into each of the first slots.

        Args:
            ids: The tokens.
            places: How many tokens the slots hold.

        Returns:
            ``(rows, vocab_size)`` scores of the tokens that come next.
        """
        enter = self.decoder.enter
        positions = torch.tensor(places)[:, None]
        hidden = self._pass(
            self.decoder.embed(enter(torch.tensor(ids)[:, None])),
            positions,
            positions,
            0,
        )
        return self.decoder.logits(hidden[:, -1])

    def _pass(
        self,
        embeddings: Tensor,
        positions: Tensor,
        places: Tensor,
        first: int,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``(rows, T, hidden_size)`` of new tokens.

        Args:
            embeddings: ``(rows, T, hidden_size)``.
            positions: ``(rows, T)`` int64.
            places: ``(rows, T)`` int64 places that are written to.
            first: The slot of the first row.
            seen: ``(rows, 1, T, places)`` bool, if a token is not to see all
                places up to its position.
        """
        enter = self.decoder.enter
        length = int(positions.max()) + 1 if seen is None else seen.shape[-1]
        # whole strides, so that few shapes occur
        used = min(-(-length // _STRIDE) * _STRIDE, self.cache.capacity)
        same = places is positions
        positions = enter(positions)
        places = positions if same else enter(places)
        if seen is None:
            order = torch.arange(used, device=positions.device)
            seen = order <= positions[:, None, :, None]
        else:
            seen = enter(torch.nn.functional.pad(seen, (0, used - length)))
        mask = torch.where(seen, 0.0, float('-inf')).to(embeddings.dtype)
        if self._llama is not None:
            return self._llama(
                embeddings, positions, mask, places, first, self.cache
            )
        self.cache.begin(first, places, used)
        return self.decoder.llm.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state


def digest(image: Tensor) -> int:
    """A negative number that stands for an image."""
    data = image.contiguous().cpu().numpy().tobytes()
    number = hashlib.blake2b(data, digest_size=16).digest()
    return -1 - int.from_bytes(number, 'big')


def fits_slots(decoder: 'LLMDecoder') -> bool:
    """Whether an LLM can work with slots.

    That is, whether its layers attend to all that came before, from keys and
    values alone, where a mask and positions are given: not with a sliding
    window, recurrent layers or a mask of its own. Besides what its config
    says, a few tokens are read in both ways, once for each LLM.
    """
    llm = decoder.llm
    if decoder.sharded or (llm.training and llm.is_gradient_checkpointing):
        # ranks have to take the same steps; layers take no cache
        return False
    if llm not in _FITS:
        llama = llm.config.model_type == 'llama'
        reason = None if llama else _misfit(decoder)
        if reason is not None:
            print_log(
                f'{decoder.name_or_path} cannot keep keys and values in slots '
                f"({reason}); transformers' generate answers, one request "
                'after another.',
                logger='current',
                level=logging.WARNING,
            )
        _FITS[llm] = reason is None
    return _FITS[llm]


def _misfit(decoder: 'LLMDecoder') -> str | None:
    """Why an LLM cannot work with slots, or None."""
    llm = decoder.llm
    taken = inspect.signature(llm.base_model.forward).parameters
    if 'position_ids' not in taken:
        return 'it takes no positions'
    if not compat.attends_to_all(llm.config):
        return 'its layers do not attend to all that came before'
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, llm.config.vocab_size, (1, 6), generator=generator)
    embeddings = decoder.embed(decoder.enter(ids))
    places = decoder.enter(torch.arange(6)[None])
    try:
        want = llm.base_model(
            inputs_embeds=embeddings, use_cache=False
        ).last_hidden_state
        cache = KVCache()
        cache.reserve(1, 8)
        parts = []
        for part in (slice(0, 4), slice(4, 5), slice(5, 6)):
            now = places[:, part]
            cache.begin(0, now, 8)
            mask = torch.where(
                torch.arange(8, device=now.device) > now[:, None, :, None],
                float('-inf'),
                0.0,
            ).to(embeddings.dtype)
            parts.append(
                llm.base_model(
                    inputs_embeds=embeddings[:, part],
                    attention_mask=mask,
                    position_ids=now,
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
            )
    except Exception as error:  # whatever it does not know
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    far = (torch.cat(parts, 1) - want).float().norm() / want.float().norm()
    # 16 bits are off by less than 0.01
    return None if far < 0.02 else f'what it reads is off by {float(far):.0%}'
