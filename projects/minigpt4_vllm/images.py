# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of a request: their pixels, and their places in the prompt.

The chat template has written one image token per image where the message has
the image. Here each becomes the number of tokens that an image has.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import AutoImageProcessor, BatchFeature
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from .folder import image_tokens


class ImageInfo(BaseProcessingInfo):
    """What vLLM asks about the images of a model."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return the number of images in a prompt: any."""
        return {'image': None}

    @cached_property
    def slot(self) -> tuple[int, int]:
        """The image token and its number; see :func:`.image_tokens`."""
        return image_tokens(self.get_hf_config().to_dict())

    @cached_property
    def image_processor(self) -> Any:
        """The folder's image processor, with Pillow's bicubic filter.

        That of torchvision gives other pixels.
        """
        return AutoImageProcessor.from_pretrained(
            self.ctx.model_config.model, backend='pil'
        )


class DummyImages(BaseDummyInputsBuilder[ImageInfo]):
    """Images for the profile of memory that vLLM makes at the start."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return a text with image tokens."""
        token = self.info.get_tokenizer().convert_ids_to_tokens(
            self.info.slot[0]
        )
        return token * mm_counts.get('image', 0)

    def get_dummy_mm_data(
        self,
        seq_len: int,
        mm_counts: Mapping[str, int],
        mm_options: MultiModalDummyOptions,
    ) -> MultiModalDataDict:
        """Return images of the size that the model has."""
        side = self.info.get_hf_config().vision_config.image_size
        return {
            'image': self._get_dummy_images(
                width=side,
                height=side,
                num_images=mm_counts.get('image', 0),
                overrides=mm_options.get('image'),
            )
        }


class ImageReader(BaseMultiModalProcessor[ImageInfo]):
    """Makes pixels of images, and image tokens of image slots."""

    def _call_hf_processor(
        self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        return self.info.image_processor(
            images=hf_data['images'], return_tensors='pt'
        )

    def _get_mm_fields_config(
        self,
        hf_inputs: BatchFeature,
        hf_processor_mm_kwargs: Mapping[str, object],
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {'pixel_values': MultiModalFieldConfig.batched('image')}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        token, count = self.info.slot
        return [PromptReplacement('image', [token], [token] * count)]
