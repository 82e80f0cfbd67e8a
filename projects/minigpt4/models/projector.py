# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The head: the trained projection of MiniGPT-4."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..registry import MODELS

# factor of the learned prefix, so that AdamW's steps, which are as large as
# the learning rate of the matrix, also suit its values
_PREFIX_SCALE = 100.0
_PREFIX_STD = 0.02  # of its first values, as of the embeddings of many LLMs


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
        num_prefix_tokens: Learned tokens before those of each image, the same
            for all images. They condition the LLM on the style of the
            answers; tried with a small LLM only.

    Source: MiniGPT-4 ``llama_proj`` of ``models/minigpt4.py`` @ d94738a;
    paper sections 3.1 and 4.4 (b). The prefix, which is not in the paper, is
    prompt tuning (arXiv 2104.08691).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int = 1,
        num_prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.frozen = False
        layers: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
        for _ in range(num_layers - 1):
            layers += [nn.GELU(), nn.Linear(out_channels, out_channels)]
        self.layers = nn.Sequential(*layers)
        self.num_prefix_tokens = num_prefix_tokens
        if num_prefix_tokens:
            # not zeros: their gradient overflows in the norms of the LLM
            self.prefix = nn.Parameter(
                torch.randn(num_prefix_tokens, out_channels)
                * (_PREFIX_STD / _PREFIX_SCALE)
            )

    def prefix_embeddings(self) -> Tensor:
        """Return the learned prefix, ``(num_prefix_tokens, out_channels)``."""
        return _PREFIX_SCALE * self.prefix

    def set_prefix(self, embedding: Tensor) -> None:
        """Set every token of the learned prefix to one embedding.

        Args:
            embedding: ``(out_channels,)``.
        """
        if self.num_prefix_tokens:
            self.prefix.data.copy_(embedding / _PREFIX_SCALE)

    def forward(self, queries: Tensor) -> Tensor:
        """``(B, Q, in_channels)`` to ``(B, P + Q, out_channels)``, fp32.

        ``P`` is ``num_prefix_tokens``. Also under ``--amp``: it is trained,
        and its cost is negligible.
        """
        with torch.autocast(queries.device.type, enabled=False):
            tokens = self.layers(queries.float())
            if not self.num_prefix_tokens:
                return tokens
            prefix = self.prefix_embeddings().expand(len(tokens), -1, -1)
            return torch.cat((prefix, tokens), dim=1)


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
