# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The head: the trained projection of MiniGPT-4."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import MODELS

# of the first values of the prefix, as of the embeddings of many LLMs
_PREFIX_STD = 0.02


@MODELS.register_module()
class LinearProjector(nn.Module):
    """Map image queries into the LLM's embedding space.

    One linear layer, stored and computed in fp32. With ``num_layers`` above
    one there is a GELU between the layers, which would be equivalent to one
    layer without it (the paper's ablation b does not state this).

    The learned prefix and the position biases, which are not in the paper,
    need a larger learning rate than the matrix: AdamW's steps are as large as
    its rate whatever the size of the values. See
    :class:`~.engine.TrainedParameters`.

    Args:
        in_channels: Width of the neck's output.
        out_channels: Width of the LLM's embeddings.
        num_layers: Linear layers.
        num_prefix_tokens: Learned tokens before those of each image, the same
            for all images. They condition the LLM on the style of the
            answers; tried with a small LLM only.
        position_bias: Whether each token of an image has a learned bias of
            its own, together with that of the layer.
        num_tokens: Tokens of an image, for the position biases.

    Attributes:
        prefix: ``(num_prefix_tokens, out_channels)``, or None.
        position_bias: ``(num_tokens, out_channels)``, zeros at first, or
            None.

    Raises:
        ValueError: There are position biases, but no number of tokens.

    Source: MiniGPT-4 ``llama_proj`` of ``models/minigpt4.py`` @ d94738a;
    paper sections 3.1 and 4.4 (b). The prefix is prompt tuning (arXiv
    2104.08691).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int = 1,
        num_prefix_tokens: int = 0,
        position_bias: bool = False,
        num_tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.frozen = False
        layers: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
        for _ in range(num_layers - 1):
            layers += [nn.GELU(), nn.Linear(out_channels, out_channels)]
        self.layers = nn.Sequential(*layers)
        self.num_prefix_tokens = num_prefix_tokens
        self.prefix: nn.Parameter | None = None
        if num_prefix_tokens:
            # not zeros: their gradient overflows in the norms of the LLM
            self.prefix = nn.Parameter(
                torch.randn(num_prefix_tokens, out_channels) * _PREFIX_STD
            )
        self.position_bias: nn.Parameter | None = None
        if position_bias:
            if num_tokens is None:
                raise ValueError(
                    'LinearProjector has position_bias=True, but num_tokens '
                    'is not set, and the neck has none; set num_tokens to '
                    'the number of tokens of an image.'
                )
            self.position_bias = nn.Parameter(
                torch.zeros(num_tokens, out_channels)
            )

    def forward(self, queries: Tensor) -> Tensor:
        """``(B, Q, in_channels)`` to ``(B, P + Q, out_channels)``, fp32.

        ``P`` is ``num_prefix_tokens``. Also under ``--amp``: it is trained,
        and its cost is negligible.
        """
        with torch.autocast(queries.device.type, enabled=False):
            tokens = self.layers(queries.float())
            if self.position_bias is not None:
                tokens = tokens + self.position_bias
            if self.prefix is None:
                return tokens
            prefix = self.prefix.expand(len(tokens), -1, -1)
            return torch.cat((prefix, tokens), dim=1)


def build_head(config: Mapping, neck: Any, out_channels: int) -> nn.Module:
    """Build the head of a config between a neck and an LLM.

    Args:
        config: The head's config; it may set the widths itself.
        neck: The neck, which has ``out_channels`` and ``num_tokens``.
        out_channels: Width of the LLM's embeddings.
    """
    sizes = dict(in_channels=neck.out_channels, out_channels=out_channels)
    if config.get('position_bias'):
        sizes['num_tokens'] = neck.num_tokens
    return MODELS.build(sizes | {**config})
