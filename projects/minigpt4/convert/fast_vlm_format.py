# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The folder of ``FastVlmForConditionalGeneration``: names and settings.

FastVLM projects each position of the feature map of a CNN. Its vision encoder
is any of transformers; its projector is linear - activation - linear, which
is one linear layer if the activation is ``linear`` and the second matrix the
identity. Position biases are columns of the first matrix, for channels that
mark the positions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..models import EfficientNetLite, PatchTokens
from ..weights.read import LazyTensor
from .efficientnet_format import (
    efficientnet_config,
    efficientnet_tensors,
    refuse_pooling,
)
from .export_sources import EmptyModel, Parts, Tensors
from .token_blocks import TokenBlocks

LLM_PREFIX = 'model.language_model.'
TOWER = 'model.vision_tower.'
PROJECTOR = 'model.multi_modal_projector.'
HEAD_NAME = 'lm_head.weight'


class FastVlmFormat:
    """FastVLM: EfficientNet-Lite, pooled patches, any causal LM."""

    class_name = 'FastVlmForConditionalGeneration'
    parts: tuple[type, ...] = (EfficientNetLite, PatchTokens)
    fp32_prefixes: tuple[str, ...] = ()

    def refuse(self, model: EmptyModel) -> None:
        """Refuse a model that the class cannot represent.

        Raises:
            ValueError: Its head has more than two layers, or position biases
                after two, the output layer of its LLM has a bias, or
                :func:`.refuse_pooling` refuses its image tokens.
        """
        linears = _linears(model.head)
        if len(linears) > 2:
            raise ValueError(
                f'the head has {len(linears)} layers, but {self.class_name} '
                'has room for two; serve this model with minigpt4 itself.'
            )
        if len(linears) == 2 and _has_position_bias(model.head):
            raise ValueError(
                'the head has position_bias=True and num_layers=2, but '
                f'{self.class_name} has no place for biases of positions '
                'after a second layer; train with num_layers=1 or '
                'position_bias=False, or serve this model with minigpt4 '
                'itself.'
            )
        if model.decoder.llm.get_output_embeddings().bias is not None:
            raise ValueError(
                'the output layer of the LLM has a bias, for which '
                f'{self.class_name} has no place; serve this model with '
                'minigpt4 itself.'
            )
        refuse_pooling(model.backbone, model.neck)

    def tensors(self, model: EmptyModel, parts: Parts) -> Tensors:
        """Rename all tensors as the class has them."""
        tensors = {
            TOWER + name: tensor
            for name, tensor in efficientnet_tensors(
                model.backbone,
                model.neck,
                parts.backbone,
                _has_position_bias(model.head),
            ).items()
        }
        indices = _linears(model.head)
        for i, index in enumerate(indices, start=1):
            for name in ('weight', 'bias'):
                tensors[f'{PROJECTOR}linear_{i}.{name}'] = parts.head[
                    f'head.layers.{index}.{name}'
                ]
        if _has_position_bias(model.head):
            name = f'{PROJECTOR}linear_1.weight'
            tensors[name] = _with_position_columns(
                tensors[name],
                parts.head['head.position_bias'],
                TokenBlocks(model.backbone, model.neck, True),
            )
        if len(indices) == 1:
            width = model.decoder.hidden_size
            tensors[f'{PROJECTOR}linear_2.weight'] = LazyTensor(
                (width, width),
                torch.float32,
                lambda: torch.diag(torch.ones(width)),
            )
            tensors[f'{PROJECTOR}linear_2.bias'] = LazyTensor(
                (width,), torch.float32, lambda: torch.zeros(width)
            )
        prefix = model.decoder.llm.base_model_prefix + '.'
        for name, tensor in parts.llm.items():
            if name != HEAD_NAME:
                name = LLM_PREFIX + name.removeprefix(prefix)
            tensors[name] = tensor
        return tensors

    def config(
        self,
        model: EmptyModel,
        text_config: dict[str, Any],
        image_token_id: int,
    ) -> dict[str, Any]:
        """Return the ``config.json`` of a folder, but for its dtype.

        Args:
            model: The model.
            text_config: ``config.json`` of the LLM, which is not changed.
            image_token_id: Token id that stands for images.
        """
        llm_config = model.decoder.llm.config
        return dict(
            model_type='fast_vlm',
            architectures=[self.class_name],
            image_token_index=image_token_id,
            image_seq_length=model.neck.num_tokens,
            projector_hidden_act=(
                'linear' if len(_linears(model.head)) == 1 else 'gelu'
            ),
            tie_word_embeddings=llm_config.tie_word_embeddings,
            vision_config=efficientnet_config(
                model.backbone, model.neck, _has_position_bias(model.head)
            ),
            text_config=text_config,
        )


def _linears(head: nn.Module) -> list[int]:
    """Return the indices of the linear layers of a head."""
    layers: Any = head.layers
    return [i for i, x in enumerate(layers) if isinstance(x, nn.Linear)]


def _has_position_bias(head: nn.Module) -> bool:
    """Whether a head has position biases."""
    return getattr(head, 'position_bias', None) is not None


def _with_position_columns(
    weight: LazyTensor, position_bias: LazyTensor, tokens: TokenBlocks
) -> LazyTensor:
    """Add the position biases to a matrix, for the channels of positions.

    Args:
        weight: ``(width of the LLM, tokens.first_position)``.
        position_bias: ``(number of tokens, width of the LLM)``.
        tokens: The channels.
    """
    shape = (weight.shape[0], tokens.channels)

    def read() -> Tensor:
        biases = position_bias.read().to(weight.dtype)
        columns = torch.cat((weight.read(), biases.T), dim=1)
        return nn.functional.pad(columns, (0, shape[1] - columns.shape[1]))

    return LazyTensor(shape, weight.dtype, read)
