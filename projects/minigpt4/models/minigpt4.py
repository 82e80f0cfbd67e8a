# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The model: backbone, neck, head and decoder, with loss and train step."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor

from .. import compat
from ..deprecated import warn_renamed
from ..prompts import get_template
from ..registry import MODELS
from .answering import AnsweringModel
from .checkpoint import register_hooks
from .collator import Collator
from .gradient_accumulation import accumulate_gradients
from .packed_attention import PackedLayout
from .packing import MultimodalInputs
from .pair_collator import PairCollator
from .preference import PreferenceTraining, count_pairs, disable_dropout
from .projector import build_head
from .vision import build_vision

_UNSET = 'unset'


@MODELS.register_module()
class MiniGPT4(AnsweringModel):
    """Frozen vision encoder and LLM, joined by a trained projection.

    A forward pass: (1) the backbone encodes the images, (2) the neck reduces
    each to a few queries, (3) the head maps these into the LLM's embedding
    space, (4) they are inserted between the embedded tokens, (5) the decoder
    computes the logits.

    The state dict holds only trained weights and the fingerprint of the rest.

    Args:
        backbone: Config of a :class:`~.backbone.Backbone`, e.g.
            :class:`EVAViT`; None where images come as queries
            (:class:`CachedQueries`).
        neck: Config of the neck, e.g. :class:`QFormer`; its widths are filled
            in.
        head: Config of the head; its widths are filled in.
        decoder: Config of the decoder, e.g. :class:`LLMDecoder`.
        prompt_template: Name of a template of ``minigpt4.prompts``, or
            ``'chat'`` for the chat template of the LLM's tokenizer.
        max_text_length: In training, the most tokens of an answer with its
            end symbol.
        micro_batch_size: The most samples of one forward and backward pass; a
            larger batch is accumulated in pieces, with the same loss and
            gradient. None is no limit.
        pack_length: Tokens of a pack. The sequences of a training batch are
            packed, and do not attend to each other; None puts each sequence
            into a pack of its own, padded to the longest. A decoder with
            packed attention (see :mod:`minigpt4.llm.families`) gets all
            sequences in one pack; one with a sliding window is not packed.
        prompt: The question of a caption without a question of its own.
        system: The line that opens a chat, and with the template ``'chat'``
            every prompt; None is the template's, '' is none.
        generation: Default sampling parameters.
        max_context: The most tokens of a prompt and its answer; None is what
            the LLM takes, which may be more than the memory holds.
        check_llm: Whether a checkpoint of another LLM is refused.
        check_vision: Whether one of another backbone, neck or normaliser is.
        check_template: Whether one of another prompt template is.
        compile: Whether blocks of the backbone and layers of the LLM run
            compiled in training (``torch.compile``, a minute at the start).
        device: Where the model goes when it is built; ``'auto'`` is the GPU
            if there is one. None leaves it to the caller (a runner).
        data_preprocessor: Config of the image normaliser; None is that of
            the backbone.
        preference: Settings of :class:`~.preference.PreferenceTraining`:
            training then reads pairs of answers (DPO). None trains on
            answers, as stages 1 and 2 do.
        line_length: Deprecated name of ``pack_length``.

    Source: MiniGPT-4 ``models/minigpt4.py`` and ``models/minigpt_base.py`` @
    d94738a; paper section 3.
    """

    def __init__(
        self,
        backbone: dict | None,
        neck: dict,
        head: dict,
        decoder: dict,
        prompt_template: str = 'vicuna_v0',
        max_text_length: int | None = None,
        micro_batch_size: int | None = None,
        pack_length: int | None = 256,
        prompt: str = '',
        system: str | None = None,
        generation: dict | None = None,
        max_context: int | None = None,
        check_llm: bool = True,
        check_vision: bool = True,
        check_template: bool = True,
        compile: bool = False,
        device: str | None = None,
        data_preprocessor: dict | None = None,
        preference: dict | None = None,
        line_length: Any = _UNSET,
    ) -> None:
        vision = build_vision(backbone, neck, data_preprocessor)
        super().__init__(vision.normalizer)
        if line_length is not _UNSET:
            warn_renamed(
                'model.line_length',
                'model.pack_length',
                category=FutureWarning,
            )
            pack_length = line_length
        self.max_text_length = max_text_length
        self.micro_batch_size = micro_batch_size
        self.pack_length = pack_length
        self.prompt = prompt
        self.system = system
        self.generation = dict(generation or {})
        self.max_context = max_context
        self.check_llm = check_llm
        self.check_vision = check_vision
        self.check_template = check_template
        self.backbone = vision.backbone
        self.neck = vision.neck
        self.decoder = MODELS.build(decoder)
        self.template = get_template(prompt_template, self.decoder.tokenizer)
        self.head = build_head(head, self.neck, self.decoder.hidden_size)
        # weights of a checkpoint, until they are compared after loading
        self.loaded_weights: dict[str, Tensor] = {}
        register_hooks(self)
        self.preference = None
        if preference is not None:
            self.preference = PreferenceTraining(**preference)
            disable_dropout(self)
        self.train()
        if compile:
            self.compile_layers()
        if device is not None and not compat.builds_on_meta():
            if device == 'auto':
                device = 'cuda' if torch.cuda.is_available() else 'cpu'
            self.to(device)

    def init_weights(self) -> None:
        """Do nothing: the components initialise or load their weights."""

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Compile the blocks of the backbone and the layers of the LLM."""
        if self.backbone is not None:
            self.backbone.compile_layers(backend)
        self.decoder.compile_layers(backend)

    def train(self, mode: bool = True) -> 'MiniGPT4':
        """Set the mode of trained components; frozen ones stay in eval."""
        self.training = mode
        for module in (self.backbone, self.neck, self.head):
            if module is not None:
                module.train(mode and not module.frozen)
        self.decoder.train(mode)
        return self

    @property
    def image_size(self) -> int:
        """Side of the images that the backbone takes, in pixels.

        Raises:
            ValueError: The model has no backbone.
        """
        if self.backbone is None:
            raise ValueError(
                'this model takes cached features and has no backbone; build '
                'it from its config without --features.'
            )
        return self.backbone.img_size

    @property
    def num_image_tokens(self) -> int:
        """Tokens of an image in the LLM, with the head's learned prefix."""
        return self.neck.num_tokens + getattr(
            self.head, 'num_prefix_tokens', 0
        )

    @property
    def trained_names(self) -> list[str]:
        """Names of the trained parameters."""
        return [n for n, p in self.named_parameters() if p.requires_grad]

    def train_collator(self) -> Collator | PairCollator:
        """Return the collator of :meth:`train_step`."""
        collator = self.collator(training=True)
        return collator if self.preference is None else PairCollator(collator)

    def collator(
        self, training: bool, max_new_tokens: int | None = None
    ) -> Collator:
        """Return a collator for this model.

        Args:
            training: For training on answers, else for generation. In
                training, samples that are longer than the LLM's context are
                skipped.
            max_new_tokens: In generation, skip samples that leave less room
                than this for an answer; None skips none.
        """
        limit = self.context_length
        if limit is not None and not training:
            limit = None if max_new_tokens is None else limit - max_new_tokens
        pack_length: float | None = self.pack_length if training else None
        if pack_length is not None and not self.decoder.supports_packs:
            print_log(
                f'{self.decoder.name_or_path} does not attend to all earlier '
                'tokens, so sequences are not packed.',
                logger='current',
            )
            pack_length = None
        elif pack_length is not None and (
            self.decoder.supports_packed_attention
        ):
            pack_length = math.inf  # attention costs the same in one pack
        return Collator(
            self.decoder.tokenizer,
            self.template,
            self.num_image_tokens,
            max_text_length=self.max_text_length if training else None,
            padding='right' if training else 'left',
            prompt='' if training else self.prompt,
            micro_batch_size=self.micro_batch_size,
            pack_length=pack_length,
            share_prefix=training and self.decoder.supports_shared_prefix,
            max_length=limit,
            system=self.system,
        )

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images to query features: ``(N, 3, H, W)`` to ``(N, Q, C)``.

        No graph is built unless the backbone or the neck is trained.

        Args:
            images: Normalised; stored queries where there is no backbone.
        """
        if self.backbone is None:
            return self.neck(images)
        graph = torch.is_grad_enabled()
        with torch.set_grad_enabled(graph and not self.backbone.frozen):
            features = self.backbone(images)
        trained = not (self.backbone.frozen and self.neck.frozen)
        with torch.set_grad_enabled(graph and trained):
            return self.neck(features)

    def embed_images(self, images: Tensor) -> Tensor:
        """Image tokens of the LLM: ``(N, Q, hidden_size)``.

        Args:
            images: As for :meth:`encode_images`.
        """
        return self.head(self.encode_images(images))

    def embed_inputs(
        self,
        images: Tensor | None,
        inputs: MultimodalInputs,
        image_tokens: Tensor | None = None,
    ) -> Tensor:
        """Embed tokens and images: ``(B, T, hidden_size)``.

        Args:
            images: ``(N, 3, H, W)`` normalised, or None.
            inputs: The batch.
            image_tokens: Output of :meth:`embed_images`, instead of
                ``images``.
        """
        embeddings = self.decoder.embed_tokens(inputs.token_ids)
        if image_tokens is None:
            if images is None:
                return embeddings
            image_tokens = self.embed_images(images)
        features = image_tokens.to(embeddings.dtype)
        flat = embeddings.flatten(0, 1)
        if flat.requires_grad:  # of a trained table or recomputed layers
            flat = flat.clone()
        flat.index_copy_(0, inputs.image_positions, features.flatten(0, 1))
        return flat.view_as(embeddings)

    def forward(
        self,
        images: Tensor | None = None,
        inputs: MultimodalInputs | None = None,
        samples: Sequence[BaseDataElement] | None = None,
        counts: dict | None = None,
        mode: str = 'tensor',
    ) -> Any:
        """Run the model on a collated batch.

        Args:
            images: ``(N, 3, H, W)`` normalised, or None.
            inputs: The batch.
            samples: Its samples.
            counts: Counts of the collator; not used.
            mode: ``'tensor'`` for the logits ``(B, T, vocab_size)``,
                ``'loss'`` for what :meth:`train_step` averages, ``'predict'``
                for :meth:`predict`.
        """
        if inputs is None:
            raise ValueError(
                'no inputs were given; expected a batch of '
                'model.collator(training), preprocessed.'
            )
        if mode == 'tensor':
            embeddings = self.embed_inputs(images, inputs)
            return self.decoder.logits(self._hidden_states(embeddings, inputs))
        if mode == 'loss':
            if self.preference is not None:
                return self.preference.losses(self, images, inputs)
            return self.loss(images, inputs)
        if mode == 'predict':
            return self.predict(images, inputs, samples)
        raise ValueError(
            f'unknown mode {mode!r}; expected tensor, loss or predict.'
        )

    def _hidden_states(
        self,
        embeddings: Tensor,
        inputs: MultimodalInputs,
        output_positions: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``(B, T, hidden_size)`` of the LLM.

        With ``output_positions``, the states of other positions are
        undefined.
        """
        mask = layout = None
        if not (inputs.packed or inputs.prefix):
            mask = inputs.attention_mask
        elif self.decoder.supports_packed_attention:
            layout = PackedLayout(inputs.unpack_index, inputs.pack_index)
        else:
            mask = inputs.block_mask()
        return self.decoder.hidden_states(
            embeddings,
            mask,
            inputs.position_ids,
            inputs.prefix,
            layout,
            output_positions,
        )

    def loss(
        self, images: Tensor | None, inputs: MultimodalInputs
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of the supervised tokens.

        Returns:
            ``loss``, a scalar in nats per token.

        Raises:
            ValueError: No token is supervised.
        """
        if len(inputs.targets) == 0:
            raise ValueError(
                f'none of the {inputs.token_ids.numel()} tokens of the batch '
                'is supervised; every training sample needs an answer.'
            )
        return dict(loss=self.token_losses(images, inputs).mean())

    def token_losses(
        self,
        images: Tensor | None,
        inputs: MultimodalInputs,
        image_tokens: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy of each supervised token.

        Args:
            images: ``(N, 3, H, W)`` normalised, or None.
            inputs: The batch.
            image_tokens: Output of :meth:`embed_images`, instead of
                ``images``.

        Returns:
            ``(M,)`` fp32, nats; sequence after sequence in the order in
            which they were collated.
        """
        embeddings = self.embed_inputs(images, inputs, image_tokens)
        hidden = self._hidden_states(
            embeddings, inputs, inputs.target_positions
        )
        return self.decoder.token_losses(
            hidden, inputs.target_positions, inputs.targets
        )

    def train_step(
        self, data: dict, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """Run one optimizer step on one batch, collated or not.

        Returns:
            ``loss``, and in preference training its other means; see
            :func:`accumulate_gradients`.
        """
        if not isinstance(data, dict):
            data = self.train_collator()(data)
        settings: dict[str, Any] = {}
        if self.preference is not None:
            settings.update(names=self.preference.names, count=count_pairs)
        means = accumulate_gradients(
            self, data['pieces'], optim_wrapper, **settings
        )
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return means
