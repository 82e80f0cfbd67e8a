# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Runs the model for the engine: images, prefill and decode."""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakSet

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..models import MiniGPT4
from .fast_decoder import FastDecoder, fast_decoder_difference
from .kv_cache import KVCache
from .kv_support import supports_kv_slots
from .request import GenerationRequest

_LENGTH_MULTIPLE = 16  # visible lengths are rounded up, for few shapes
# Above it each request attends to its own positions in an operation of its
# own (benchmarks/own_positions.py). 16 requests of 102 tokens in the mean and
# at most 161, which is 1.6, then take 0.90 of the time; 2 at 1.01 take 1.01.
_PADDED_SHARE = 1.2
_MAX_STORED_IMAGES = 256
_IMAGE_BATCH = 16
# LLMs of which the log says that they do not run through FastDecoder
_REPORTED: WeakSet[nn.Module] = WeakSet()


@dataclass
class RunnerStats:
    """What a runner has computed so far.

    Attributes:
        images: Images that were encoded.
        image_passes: Batches of images that were encoded.
        prefill_passes: Forward passes over prompts.
        prefill_tokens: Prompt tokens in these, padding not counted.
        decode_passes: Forward passes over one token of each request.
        decode_tokens: Tokens in these.
    """

    images: int = 0
    image_passes: int = 0
    prefill_passes: int = 0
    prefill_tokens: int = 0
    decode_passes: int = 0
    decode_tokens: int = 0


class ModelRunner:
    """Runs the vision encoder and the LLM on lists of requests.

    Args:
        model: The model.
        compile: Whether to compile the decode pass.

    Attributes:
        kv_cache: The KV slots; a running request has one of them.
        supports_kv_slots: Whether the LLM can run on KV slots at all.
        uses_fast_decoder: Whether passes run through :class:`FastDecoder`.
        stats: What was computed.
    """

    def __init__(self, model: MiniGPT4, compile: bool = False) -> None:
        self.model = model
        self.decoder = model.decoder
        self.kv_cache = KVCache()
        self.stats = RunnerStats()
        # image features by digest, most recently used last; not
        # cachetools.LRUCache: one batch may need more than the limit
        self._features: OrderedDict[int, Tensor] = OrderedDict()
        self._fast: FastDecoder | None = None
        with torch.inference_mode():
            self.supports_kv_slots = supports_kv_slots(self.decoder)
        if not self.supports_kv_slots:
            if compile:
                self._log(
                    f'{self.decoder.name_or_path} is not compiled, since it '
                    'has no KV slots.',
                    logging.WARNING,
                )
            return
        llm = self.decoder.llm
        difference = fast_decoder_difference(llm)
        if difference is None:
            self._fast = FastDecoder(llm, compile)
        elif compile:
            self._log(
                f'{self.decoder.name_or_path} is not compiled, since '
                f"transformers' modules run it ({difference}).",
                logging.WARNING,
            )
        elif llm not in _REPORTED:
            self._log(
                f"transformers' modules run {self.decoder.name_or_path} on "
                f'the KV slots ({difference}), more slowly than the fast '
                'decoder of Llama, Mistral, Qwen2 and Qwen3.',
                logging.INFO,
            )
        if difference is not None:
            _REPORTED.add(llm)

    @staticmethod
    def _log(message: str, level: int) -> None:
        print_log(message, logger='current', level=level)

    @property
    def uses_fast_decoder(self) -> bool:
        """Whether passes run through :class:`FastDecoder`."""
        return self._fast is not None

    def encode_images(self, requests: Sequence[GenerationRequest]) -> None:
        """Encode the images that are needed to prefill some requests.

        Features of recent images are stored and not computed again.
        """
        images: dict[int, Tensor] = {}
        for request in requests:
            remaining = set(request.cache_key[self._cached_length(request) :])
            for digest, image in request.images.items():
                if digest in remaining:
                    images[digest] = image
        if images:
            self._encode(images)

    def _encode(self, images: Mapping[int, Tensor]) -> None:
        """Encode images by their digest and store their features."""
        new = [d for d in images if d not in self._features]
        for start in range(0, len(new), _IMAGE_BATCH):
            digests = new[start : start + _IMAGE_BATCH]
            preprocessor = self.model.data_preprocessor
            # not in inference mode, for which a backbone that was compiled
            # for training would be compiled a second time
            with torch.inference_mode(False), torch.no_grad():
                pixels = torch.stack([images[d] for d in digests])
                if pixels.dtype == torch.uint8:
                    pixels = preprocessor.normalize(pixels)
                features = self.model.head(
                    self.model.encode_images(pixels.to(preprocessor.device))
                )
            self._features.update(zip(digests, features, strict=True))
            self.stats.images += len(digests)
            self.stats.image_passes += 1
        for digest in images:
            self._features.move_to_end(digest)
        while len(self._features) > max(_MAX_STORED_IMAGES, len(images)):
            self._features.popitem(last=False)

    def prompt_embeddings(
        self, request: GenerationRequest, start: int = 0
    ) -> Tensor:
        """Embeddings ``(T, hidden_size)`` of a prompt, on the LLM's device.

        Args:
            request: The request; its images are encoded.
            start: The first position.
        """
        if request.embeddings is not None:
            return self.decoder.to_llm_device(request.embeddings[start:])
        key = request.cache_key
        ids = torch.tensor([max(entry, 0) for entry in key[start:]])
        embeddings = self.decoder.embed_tokens(self.decoder.to_llm_device(ids))
        position = 0
        while position < len(key):
            if key[position] >= 0:
                position += 1
                continue
            features = self._features[key[position]]
            visible = features[max(start - position, 0) :]
            begin = max(position - start, 0)
            if len(visible):
                embeddings[begin : begin + len(visible)] = visible.to(
                    embeddings
                )
            position += len(features)
        return embeddings

    def prefill(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Compute K and V of the prompts, behind what their slots hold.

        Args:
            requests: Requests in neighbouring slots, in order; their images
                are encoded.

        Returns:
            ``(B, vocab_size)`` scores of the next tokens.
        """
        starts = [self._cached_length(request) for request in requests]
        prompts = [
            self.prompt_embeddings(request, start)
            for request, start in zip(requests, starts, strict=True)
        ]
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        embeddings = pad_sequence(prompts, batch_first=True)
        offsets = torch.arange(embeddings.shape[1])[None]
        is_padding = offsets >= lengths[:, None]
        position_ids = offsets + torch.tensor(starts)[:, None]
        positions = position_ids.masked_fill(
            is_padding, self.kv_cache.padding_position
        )
        position_ids = position_ids.masked_fill(is_padding, 0)
        hidden = self._forward(
            embeddings, position_ids, positions, _slot(requests[0])
        )
        for request, start, prompt in zip(
            requests, starts, prompts, strict=True
        ):
            self.kv_cache.lengths[_slot(request)] = start + len(prompt)
            self.stats.prefill_tokens += len(prompt)
        self.stats.prefill_passes += 1
        return self.decoder.logits(
            hidden[torch.arange(len(lengths)), lengths - 1]
        )

    def decode(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Compute K and V of the last token of each request.

        Args:
            requests: The requests of all allocated slots, in order.

        Returns:
            ``(B, vocab_size)`` scores of the next tokens.
        """
        cache = self.kv_cache
        cache.reserve(len(requests), max(cache.lengths) + 1)
        ids = [[request.token_ids[-1]] for request in requests]
        positions = torch.tensor(cache.lengths)[:, None]
        embeddings = self.decoder.embed_tokens(
            self.decoder.to_llm_device(torch.tensor(ids))
        )
        lengths = [length + 1 for length in cache.lengths]
        padded = len(lengths) * max(lengths)
        if (
            self._fast is not None
            and self._fast.takes_lengths
            and padded > _PADDED_SHARE * sum(lengths)
        ):
            hidden = self._fast(
                embeddings, positions, lengths, positions, 0, cache
            )
        else:
            hidden = self._forward(embeddings, positions, positions, 0)
        cache.lengths[:] = lengths
        self.stats.decode_passes += 1
        self.stats.decode_tokens += len(requests)
        return self.decoder.logits(hidden[:, -1])

    def score_branches(
        self, request: GenerationRequest, branches: Sequence[Sequence[int]]
    ) -> Tensor:
        """Scores of several continuations of a prompt, in one pass.

        No branch attends to another. The slot still ends with the prompt
        afterwards.

        Args:
            request: A request after :meth:`prefill`, with room in its slot
                for all branches.
            branches: Token ids of the continuations.

        Returns:
            ``(T, vocab_size)`` scores of the token after each token, branch
            after branch.
        """
        slot = _slot(request)
        start = self.kv_cache.lengths[slot]
        ids = [token for branch in branches for token in branch]
        offsets = [i for branch in branches for i in range(len(branch))]
        owners = torch.tensor(
            [number for number, branch in enumerate(branches) for _ in branch]
        )
        positions = start + torch.arange(len(ids))
        mask = torch.cat(
            (
                torch.ones(len(ids), start, dtype=torch.bool),
                (owners[:, None] == owners)
                & (positions[:, None] >= positions),
            ),
            dim=1,
        )
        hidden = self._forward(
            self.decoder.embed_tokens(
                self.decoder.to_llm_device(torch.tensor([ids]))
            ),
            start + torch.tensor([offsets]),
            positions[None],
            slot,
            mask[None, None],
        )
        return self.decoder.logits(hidden[0])

    def _cached_length(self, request: GenerationRequest) -> int:
        """Tokens of a request whose K and V are in its slot."""
        slot = request.slot
        return 0 if slot is None else self.kv_cache.lengths[slot]

    def _forward(
        self,
        embeddings: Tensor,
        position_ids: Tensor,
        positions: Tensor,
        first_slot: int,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Run the LLM over new tokens of neighbouring slots.

        Args:
            embeddings: ``(B, T, hidden_size)``.
            position_ids: ``(B, T)`` int64, positions in the text.
            positions: ``(B, T)`` int64, positions in the slots that K and V
                are written to.
            first_slot: The slot of the first request.
            visible: ``(B, 1, T, positions)`` bool, which positions a token
                attends to; None is all up to its own.

        Returns:
            Hidden states ``(B, T, hidden_size)``.
        """
        to_llm_device = self.decoder.to_llm_device
        if visible is None:
            length = int(position_ids.max()) + 1
        else:
            length = visible.shape[-1]
        rounded = -(-length // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        visible_length = min(rounded, self.kv_cache.capacity)
        is_same = positions is position_ids
        position_ids = to_llm_device(position_ids)
        positions = position_ids if is_same else to_llm_device(positions)
        if visible is None:
            order = torch.arange(visible_length, device=position_ids.device)
            visible = order <= position_ids[:, None, :, None]
        else:
            padding = (0, visible_length - length)
            visible = to_llm_device(torch.nn.functional.pad(visible, padding))
        mask = torch.where(visible, 0.0, float('-inf')).to(embeddings.dtype)
        if self._fast is not None:
            return self._fast(
                embeddings,
                position_ids,
                mask,
                positions,
                first_slot,
                self.kv_cache,
            )
        self.kv_cache.set_pass(first_slot, positions, visible_length)
        return self.decoder.llm.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=self.kv_cache,
            use_cache=True,
        ).last_hidden_state


def _slot(request: GenerationRequest) -> int:
    """The KV slot of a running request."""
    assert request.slot is not None, 'the request has no KV slot'
    return request.slot
