# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The parts of a model that make image tokens of pixels.

They are classes of transformers; only the LLM is vLLM's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Blip2QFormerModel, Blip2VisionModel
from transformers.models.fast_vlm.modeling_fast_vlm import (
    FastVlmMultiModalProjector,
)

# LN_VISION_EPS of LAVIS; Blip2VisionConfig has one eps for it and the blocks
_LN_VISION_EPS = 1e-5


class Blip2Vision(nn.Module):
    """EVA-ViT, Q-Former and projection of ``Blip2ForConditionalGeneration``.

    Q-Former and projection are fp32, as in training.

    Args:
        config: ``Blip2Config``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vision_model = Blip2VisionModel(config.vision_config)
        self.vision_model.post_layernorm.eps = _LN_VISION_EPS
        width = config.qformer_config.hidden_size
        self.query_tokens = nn.Parameter(
            torch.zeros(
                1, config.num_query_tokens, width, dtype=torch.float32
            ),
            requires_grad=False,
        )
        self.qformer = Blip2QFormerModel(config.qformer_config).float()
        self.language_projection = nn.Linear(
            width, config.text_config.hidden_size, dtype=torch.float32
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixels: ``(N, 3, side, side)``, normalised.

        Returns:
            ``(N, T, width of the LLM)`` fp32.
        """
        patches = self.vision_model(pixels).last_hidden_state.float()
        queries = self.qformer(
            query_embeds=self.query_tokens.expand(len(pixels), -1, -1),
            encoder_hidden_states=patches,
        ).last_hidden_state
        return self.language_projection(queries)


class FastVlmVision(nn.Module):
    """CNN and projection of ``FastVlmForConditionalGeneration``, in fp32.

    Args:
        config: ``FastVlmConfig``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vision_tower = AutoModel.from_config(config.vision_config).float()
        self.multi_modal_projector = FastVlmMultiModalProjector(config).float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixels: ``(N, 3, side, side)``, normalised.

        Returns:
            ``(N, T, width of the LLM)`` fp32.
        """
        grid = self.vision_tower(pixels.float()).last_hidden_state
        return self.multi_modal_projector(grid.flatten(2).mT)
