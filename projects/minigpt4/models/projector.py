# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The head: the trained projection of MiniGPT-4."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..registry import MODELS


@MODELS.register_module()
class LinearProjector(nn.Module):
    """Map image queries into the LLM's embedding space.

    One linear layer, stored and computed in fp32. With ``num_layers`` above
    one there is a GELU between the layers, which would be equivalent to one
    layer without it (the paper's ablation b does not state this).

    Args:
        in_channels: Width of the neck's output.
        out_channels: Width of the LLM's embeddings.
        num_layers: Linear layers.

    Source: MiniGPT-4 ``llama_proj`` of ``models/minigpt4.py`` @ d94738a;
    paper sections 3.1 and 4.4 (b).
    """

    def __init__(
        self, in_channels: int, out_channels: int, num_layers: int = 1
    ) -> None:
        super().__init__()
        self.frozen = False
        layers: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
        for _ in range(num_layers - 1):
            layers += [nn.GELU(), nn.Linear(out_channels, out_channels)]
        self.layers = nn.Sequential(*layers)

    def forward(self, queries: Tensor) -> Tensor:
        """``(B, Q, in_channels)`` to ``(B, Q, out_channels)``, fp32.

        Also under ``--amp``: it is trained, and its cost is negligible.
        """
        with torch.autocast(queries.device.type, enabled=False):
            return self.layers(queries.float())


def build_head(
    config: Mapping, in_channels: int, out_channels: int
) -> nn.Module:
    """Build the head of a config between a neck and an LLM.

    Args:
        config: The head's config; it may set the widths itself.
        in_channels: Width of the neck's output.
        out_channels: Width of the LLM's embeddings.
    """
    return MODELS.build(
        dict(in_channels=in_channels, out_channels=out_channels) | {**config}
    )
