# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The models as classes of vLLM: our vision parts in front of its LLM."""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsMultiModal,
    SupportsPP,
)
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.sequence import IntermediateTensors

from .folder import read_settings
from .images import DummyImages, ImageInfo, ImageReader
from .vision import Blip2Vision, FastVlmVision

# vLLM reads all files of weights, also the one that keeps a head for the
# import; its tensors are in those of the class in another form
_NOT_LOADED = {'head.': None}


class MiniGPT4(nn.Module, SupportsMultiModal, SupportsPP):
    """A model of an exported folder; the subclasses name its vision parts.

    Attributes:
        vision_class: Class of the vision parts.
        names: Prefixes of tensors in the folder, and those here.
    """

    vision_class: ClassVar[type[nn.Module]]
    names: ClassVar[WeightsMapper]

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return None: the chat template writes the image tokens."""
        return None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = '') -> None:
        super().__init__()
        model_config = vllm_config.model_config
        config: Any = model_config.hf_config
        self._suppressed = [*read_settings(model_config.model).suppressed]
        marked: Any = self  # mypy has no types of vLLM
        with marked._mark_tower_model(vllm_config, 'image'):
            self.vision = self.vision_class(config)
        with marked._mark_language_model(vllm_config):
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, 'language_model'),
            )
        self.make_empty_intermediate_tensors = (
            self.language_model.make_empty_intermediate_tensors
        )
        self._dtype = model_config.dtype

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """Encode images.

        Args:
            kwargs: ``pixel_values``, ``(N, 3, side, side)``.

        Returns:
            ``(N, T, width of the LLM)`` in the type of the LLM.
        """
        pixels = kwargs.get('pixel_values')
        if pixels is None:
            return []
        assert isinstance(pixels, Tensor)
        return self.vision(pixels).to(self._dtype)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor | IntermediateTensors:
        """Run the LLM; shapes and arguments are those of vLLM's LLMs."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model(
            input_ids,
            positions,
            intermediate_tensors,
            inputs_embeds=inputs_embeds,
        )

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the logits, ``(B, vocab_size)``.

        Those of tokens that are never generated are -inf.
        """
        logits = self.language_model.compute_logits(hidden_states)
        if logits is not None and self._suppressed:
            logits[..., self._suppressed] = float('-inf')
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the tensors of a folder; returns the names of ours."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.names)


@MULTIMODAL_REGISTRY.register_processor(
    ImageReader, info=ImageInfo, dummy_inputs=DummyImages
)
class MiniGPT4Blip2(MiniGPT4):
    """A folder of the class ``Blip2ForConditionalGeneration``."""

    vision_class = Blip2Vision
    names = WeightsMapper(
        orig_to_new_prefix={
            **_NOT_LOADED,
            'vision_model.': 'vision.vision_model.',
            'query_tokens': 'vision.query_tokens',
            'qformer.': 'vision.qformer.',
            'language_projection.': 'vision.language_projection.',
        }
    )


@MULTIMODAL_REGISTRY.register_processor(
    ImageReader, info=ImageInfo, dummy_inputs=DummyImages
)
class MiniGPT4FastVlm(MiniGPT4):
    """A folder of the class ``FastVlmForConditionalGeneration``."""

    vision_class = FastVlmVision
    names = WeightsMapper(
        orig_to_new_prefix={
            **_NOT_LOADED,
            'model.vision_tower.': 'vision.vision_tower.',
            'model.multi_modal_projector.': 'vision.multi_modal_projector.',
            'model.language_model.': 'language_model.model.',
            'lm_head.': 'language_model.lm_head.',
        }
    )
