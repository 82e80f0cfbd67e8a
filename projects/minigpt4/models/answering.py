# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The steps of a model that answer samples: validation, test, generation."""

import types
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..prompts import Template
from .collator import Collator, log_skipped
from .packing import MultimodalInputs


def _generation_api() -> types.ModuleType:
    """Import :mod:`minigpt4.generation.api` when an answer is needed.

    This is the only import of the generation package, which imports models.
    """
    from ..generation import api

    return api


class AnsweringModel(BaseModel):
    """Base of a model that answers questions about images.

    Attributes:
        decoder: The decoder.
        template: The prompt template.
        max_context: The most tokens of a prompt and its answer, or None.
    """

    decoder: Any
    template: Template
    max_context: int | None

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of the tokens that end an answer and are not in its text.

        The tokenizer's end-of-text token comes first. With the template
        ``'chat'`` the template's and those of the LLM's folder follow.
        """
        eos = self.decoder.tokenizer.eos_token_id
        ids = [] if eos is None else [eos]
        if self.template.stop_ids:
            ids += [*self.template.stop_ids, *self.decoder.stop_ids]
        return tuple(dict.fromkeys(ids))

    @property
    def context_length(self) -> int | None:
        """The most tokens of a prompt and its answer; None is no limit.

        It is what the LLM takes, or ``max_context`` if that is less.
        """
        config = getattr(self.decoder.llm, 'config', None)
        llm_limit = getattr(config, 'max_position_embeddings', None)
        limits = [n for n in (self.max_context, llm_limit) if n is not None]
        return min(limits, default=None)

    @abstractmethod
    def collator(
        self, training: bool, max_new_tokens: int | None = None
    ) -> Collator:
        """Return a collator for this model."""

    def val_step(self, data: 'dict | Sequence') -> list[BaseDataElement]:
        """Answer a batch of samples, collated or not."""
        if not isinstance(data, dict):
            params = _generation_api().sampling_params(self)
            data = self.collator(False, params.max_new_tokens)(data)
        log_skipped(data)
        if data['inputs'] is None:
            # mmengine's loops look for a loss in the last output
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
        answers = _generation_api().answer_batch(self, images, inputs)
        if samples is None:
            samples = [BaseDataElement() for _ in answers]
        for sample, answer in zip(samples, answers, strict=True):
            sample.pred_caption = answer.text
            sample.finished = answer.finished
        return list(samples)

    def generate(
        self,
        samples: Sequence[BaseDataElement],
        batch_size: int | None = None,
        **settings: Any,
    ) -> list[Any]:
        """Answer samples; see :func:`minigpt4.generation.api.generate`.

        Returns:
            One :class:`~minigpt4.generation.request.Answer` for each sample.
        """
        return _generation_api().generate(
            self, samples, batch_size, **settings
        )
