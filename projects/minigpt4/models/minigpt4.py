# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""MiniGPT4: backbone, neck, head and decoder, composed."""

import logging
import math
from collections.abc import Sequence

import torch
from mmengine import dist
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..generation.engine import Engine
from ..generation.hf_generate import generate
from ..generation.model_runner import fits_slots
from ..generation.request import Answer
from ..generation.sampling import SamplingParams
from ..prompts import get_template
from ..registry import MODELS
from .checkpoint import check_trained, ignore_frozen, keep_trained
from .collator import Collator, MultimodalInputs
from .data_preprocessor import ImageNormalizer
from .row_attention import Rows


@MODELS.register_module()
class MiniGPT4(BaseModel):
    """A frozen eye, a frozen voice, and one trained layer between.

    A forward pass is: (1) the backbone sees the images, (2) the neck distils
    each into a few queries, (3) the head maps these into the LLM's embedding
    space, (4) they take their places among the embedded words, (5) the
    decoder reads all and speaks.

    The state dict holds what is trained and the fingerprint of the LLM that
    it was trained against; nothing else.

    Args:
        backbone: Config of the backbone, e.g. :class:`EVAViT`; None where
            images come as queries (:class:`CachedQueries`).
        neck: Config of the neck, e.g. :class:`QFormer`.
        head: Config of the head; its widths are filled in.
        decoder: Config of the decoder, e.g. :class:`LLMDecoder`.
        prompt_template: Name of a template of ``minigpt4.prompts``.
        max_text_length: In training, the most tokens of an answer with its
            end symbol.
        micro_batch_size: Samples that go through forward and backward at
            once; a larger batch is accumulated in pieces with the same loss
            and gradient. None takes the batch as it is.
        line_length: Tokens of a line that the rows of a training batch are
            packed into, which do not see each other; None gives each row a
            line of its own, padded to the longest. A decoder that attends to
            rows (LLaMA) gets all of them in one line.
        prompt: The question of a caption without a question of its own.
        system: The line that opens a chat; None is the template's, '' is
            none.
        generation: Default settings of :meth:`generate`.
        check_llm: Whether a checkpoint of another LLM is refused.
        compile: Whether blocks of the backbone and layers of the LLM run
            compiled in training (``torch.compile``, a minute at the start).
        device: Where the model goes when it is built; ``'auto'`` is the GPU
            if there is one. None leaves it to the caller (a runner).
        data_preprocessor: Config of the image normaliser.

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
        line_length: int | None = 256,
        prompt: str = '',
        system: str | None = None,
        generation: dict | None = None,
        check_llm: bool = True,
        compile: bool = False,
        device: str | None = None,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor or dict(type=ImageNormalizer))
        self.template = get_template(prompt_template)
        self.max_text_length = max_text_length
        self.micro_batch_size = micro_batch_size
        self.line_length = line_length
        self.prompt = prompt
        self.system = system
        self.generation = dict(generation or {})
        self.check_llm = check_llm
        self.backbone = None if backbone is None else MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.decoder = MODELS.build(decoder)
        self.head = MODELS.build(
            {
                'in_channels': self.neck.out_channels,
                'out_channels': self.decoder.hidden_size,
                **head,
            }
        )
        # what a checkpoint gave, until it is compared after loading
        self.loaded_weights: dict[str, Tensor] = {}
        self.register_state_dict_post_hook(keep_trained)
        self.register_load_state_dict_pre_hook(check_trained)
        self.register_load_state_dict_post_hook(ignore_frozen)
        self.train()
        if compile:
            self.compile_layers()
        if device is not None and torch.get_default_device().type != 'meta':
            if device == 'auto':
                device = 'cuda' if torch.cuda.is_available() else 'cpu'
            self.to(device)

    def init_weights(self) -> None:
        """Do nothing: the parts are initialised or loaded when built."""

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Let blocks of the backbone and layers of the LLM run compiled."""
        if self.backbone is not None:
            self.backbone.compile_layers(backend)
        self.decoder.compile_layers(backend)

    def train(self, mode: bool = True) -> 'MiniGPT4':
        """Switch the trained parts; frozen parts stay in eval mode."""
        self.training = mode
        for part in (self.backbone, self.neck, self.head):
            if part is not None:
                part.train(mode and not part.frozen)
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
                'this model takes cached features and has no backbone to see '
                'with; build it from its config without --features.'
            )
        return self.backbone.img_size

    @property
    def trained_names(self) -> list[str]:
        """Names of the trained parameters."""
        return [n for n, p in self.named_parameters() if p.requires_grad]

    @property
    def context_length(self) -> int | None:
        """The most tokens that the LLM takes; None where it has no limit."""
        config = getattr(self.decoder.llm, 'config', None)
        return getattr(config, 'max_position_embeddings', None)

    def collator(
        self, training: bool, max_new_tokens: int | None = None
    ) -> Collator:
        """What makes batches of samples for this model.

        Args:
            training: Whether answers are learned, or generated. Training
                leaves out samples that are longer than the LLM's context.
            max_new_tokens: In generation, leave out samples that leave less
                room than this for an answer; None takes any.
        """
        limit = self.context_length
        if limit is not None and not training:
            limit = None if max_new_tokens is None else limit - max_new_tokens
        return Collator(
            self.decoder.tokenizer,
            self.template,
            self.neck.num_tokens,
            max_text_length=self.max_text_length if training else None,
            padding='right' if training else 'left',
            prompt='' if training else self.prompt,
            micro_batch_size=self.micro_batch_size,
            line_length=self._line_length if training else None,
            share_prefix=training and self.decoder.can_store_prefix,
            max_length=limit,
        )

    @property
    def _line_length(self) -> float | None:
        """All rows in one line where attention does not mind its length."""
        if self.line_length is None or not self.decoder.attends_to_rows:
            return self.line_length
        return math.inf

    def queries(self, images: Tensor) -> Tensor:
        """Frozen half of seeing: ``(N, 3, H, W)`` float to ``(N, Q, C)``.

        No graph is built unless backbone or neck are trained.
        """
        if self.backbone is None:
            return self.neck(images)
        graph = torch.is_grad_enabled()
        with torch.set_grad_enabled(graph and not self.backbone.frozen):
            features = self.backbone(images)
        trained = not (self.backbone.frozen and self.neck.frozen)
        with torch.set_grad_enabled(graph and trained):
            return self.neck(features)

    def embed(self, images: Tensor | None, inputs: MultimodalInputs) -> Tensor:
        """Words and images as ``(B, T, hidden_size)`` embeddings.

        Args:
            images: ``(N, 3, H, W)`` normalised, or None.
            inputs: The batch.
        """
        embeddings = self.decoder.embed(inputs.token_ids)
        if images is None:
            return embeddings
        tokens = self.head(self.queries(images)).to(embeddings.dtype)
        flat = embeddings.flatten(0, 1)
        if flat.requires_grad:  # a trained table, or made so for recomputing
            flat = flat.clone()
        flat.index_copy_(0, inputs.image_places, tokens.flatten(0, 1))
        return flat.view_as(embeddings)

    def forward(
        self,
        images: Tensor | None = None,
        inputs: MultimodalInputs | None = None,
        samples: Sequence[BaseDataElement] | None = None,
        counts: dict | None = None,
        mode: str = 'tensor',
    ):
        """Run the model on a collated batch.

        Args:
            images: ``(N, 3, H, W)`` normalised, or None.
            inputs: The batch.
            samples: Its samples.
            counts: What the collator counted; not used here.
            mode: ``'tensor'`` for the logits ``(B, T, vocab_size)``,
                ``'loss'`` for :meth:`loss`, ``'predict'`` for
                :meth:`predict`.
        """
        if inputs is None:
            raise ValueError(
                'no inputs were given; expected a batch of '
                'model.collator(training), preprocessed.'
            )
        if mode == 'tensor':
            embeddings = self.embed(images, inputs)
            return self.decoder.logits(self._read(embeddings, inputs))
        if mode == 'loss':
            return self.loss(images, inputs)
        if mode == 'predict':
            return self.predict(images, inputs, samples)
        raise ValueError(
            f'unknown mode {mode!r}; expected tensor, loss or predict.'
        )

    def _read(
        self,
        embeddings: Tensor,
        inputs: MultimodalInputs,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Hidden states ``(B, T, hidden_size)`` of the LLM.

        Where only some are ``wanted``, others may mean nothing.
        """
        mask = rows = None
        if not (inputs.packed or inputs.prefix):
            mask = inputs.attention_mask
        elif self.decoder.attends_to_rows:
            rows = Rows(inputs.row_places, inputs.row_backs)
        else:
            mask = inputs.block_mask()
        return self.decoder.hidden_states(
            embeddings, mask, inputs.position_ids, inputs.prefix, rows, wanted
        )

    def loss(
        self, images: Tensor | None, inputs: MultimodalInputs
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of the supervised tokens.

        Returns:
            ``loss``, a scalar in nats per token.

        Raises:
            ValueError: Nothing is supervised.
        """
        if len(inputs.targets) == 0:
            raise ValueError(
                f'none of the {inputs.token_ids.numel()} tokens of the batch '
                'is supervised; every training sample needs an answer.'
            )
        hidden = self._read(
            self.embed(images, inputs), inputs, inputs.target_places
        )
        losses = self.decoder.token_losses(
            hidden, inputs.target_places, inputs.targets
        )
        return dict(loss=losses.mean())

    def train_step(
        self, data: dict, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """One optimizer step on one batch, in pieces where it is too large.

        The loss is the mean over the supervised tokens of the global batch,
        whatever the number of ranks and pieces; gradients are averaged over
        ranks here, so that no wrapper has to look at the frozen weights.

        Returns:
            ``loss``, that mean, detached; 0 where no sample of the global
            batch could be read.
        """
        if not isinstance(data, dict):
            data = self.collator(training=True)(data)
        pieces = data['pieces']
        learned = sum(len(piece['inputs'].targets) for piece in pieces)
        share = torch.full(
            (), float(learned), device=self.data_preprocessor.device
        )
        dist.all_reduce(share, op='mean')  # targets of the mean rank
        if pieces and not learned and share == 0:
            self.loss(None, pieces[0]['inputs'])  # says what is wrong
        total = torch.zeros_like(share)
        for piece in pieces:
            if len(piece['inputs'].targets) == 0:
                continue
            with optim_wrapper.optim_context(self):
                piece = self.data_preprocessor(piece, True)
                weight = len(piece['inputs'].targets) / share
                loss = self(**piece, mode='loss')['loss'] * weight
                if piece['images'] is None:
                    # text only: a zero gradient, so that backward runs and
                    # all ranks reduce the same tensors
                    loss = loss + 0 * sum(
                        p.sum() for p in self.parameters() if p.requires_grad
                    )
            optim_wrapper.backward(loss)
            total += loss.detach()
        trained = [p for p in self.parameters() if p.requires_grad]
        for parameter in trained:  # a rank whose batch was unreadable
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce_params([p.grad for p in trained], op='mean')
        dist.all_reduce(total, op='mean')
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return dict(loss=total)

    def val_step(self, data: 'dict | Sequence') -> list[BaseDataElement]:
        """Answer a batch of samples, collated or not."""
        if not isinstance(data, dict):
            number = SamplingParams.of(self.generation).max_new_tokens
            data = self.collator(training=False, max_new_tokens=number)(data)
        skipped = data.get('counts', {}).get('skipped')
        if skipped:
            print_log(
                f'{skipped} samples could not be read or are too long; they '
                'are not in the scores.',
                logger='current',
                level=logging.WARNING,
            )
        if data['inputs'] is None:
            # no sample could be read; mmengine's loops look at the last
            # output for a loss, and take none from this one
            return [BaseDataElement(loss={})]
        return super().val_step(data)

    test_step = val_step

    def predict(
        self,
        images: Tensor | None,
        inputs: MultimodalInputs,
        samples: Sequence[BaseDataElement] | None = None,
    ) -> list[BaseDataElement]:
        """Answer each sample's last question.

        Returns:
            The samples (new ones where None are given) with
            ``pred_caption`` and ``finished`` set.
        """
        answers = self.answer(images, inputs)
        if samples is None:
            samples = [BaseDataElement() for _ in answers]
        for sample, answer in zip(samples, answers, strict=True):
            sample.pred_caption = answer.text
            sample.finished = answer.finished
        return list(samples)

    @torch.no_grad()
    def answer(
        self, images: Tensor | None, inputs: MultimodalInputs, **settings
    ) -> list[Answer]:
        """Generate for a left-padded batch.

        Args:
            images: ``(N, 3, H, W)`` normalised, or None.
            inputs: The batch.
            settings: Over ``generation``; see :class:`SamplingParams`.

        Raises:
            ValueError: The batch is one of the training collator, or a
                setting is unknown.
        """
        if inputs.packed or inputs.prefix:
            raise ValueError(
                'a packed training batch cannot be answered; collate with '
                'model.collator(training=False).'
            )
        if not inputs.attention_mask[:, -1].all():
            raise ValueError(
                'a prompt ends in padding; a batch to answer is padded on '
                "the left: collate with padding='left'."
            )
        embeddings = self.embed(images, inputs)
        if self._engine_answers(settings):
            engine = Engine(self, slots=len(embeddings), stored_tokens=0)
            masks = inputs.attention_mask.bool()
            rows = [
                engine.submit_embedded(row[mask], **settings)
                for row, mask in zip(embeddings, masks, strict=True)
            ]
            return [row.answer() for row in rows]
        chosen = SamplingParams.of(self.generation, settings)
        return generate(
            self.decoder.llm,
            self.decoder.tokenizer,
            self.decoder.enter(embeddings),
            self.decoder.enter(inputs.attention_mask),
            (*self.template.stop, *chosen.stop),
            **chosen.of_transformers(),
        )

    def generate(
        self,
        samples: Sequence[BaseDataElement],
        batch_size: int | None = None,
        **settings,
    ) -> list[Answer]:
        """Answer samples (``images`` uint8 and ``turns``).

        Args:
            samples: What the datasets' pipelines give.
            batch_size: How many are answered at once; None is all.
            settings: Over ``generation``; see :class:`SamplingParams`.
        """
        size = batch_size or max(len(samples), 1)
        collator = self.collator(training=False)
        if self._engine_answers(settings):
            engine = Engine(self, min(size, len(samples) or 1), 0)
            rows = [
                engine.submit(collator.row(sample), sample.images, **settings)
                for sample in samples
            ]
            return [row.answer() for row in rows]
        answers = []
        for start in range(0, len(samples), size):
            batch = collator(samples[start : start + size])
            batch = self.data_preprocessor(batch, False)
            answers += self.answer(
                batch['images'], batch['inputs'], **settings
            )
        return answers

    def _engine_answers(self, settings: dict) -> bool:
        """Whether answers are the engine's, not transformers'."""
        beams = SamplingParams.of(self.generation, settings).num_beams
        return beams == 1 and fits_slots(self.decoder)
