# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The interface of backbones, and the check of their input."""

from typing import Protocol

from torch import Tensor

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


class Backbone(Protocol):
    """A vision encoder: images to tokens, in raster order.

    Attributes:
        name: The kind of network, for messages and the fingerprint.
        img_size: Side of the square input in pixels.
        frozen: Whether the weights are not trained.
        out_channels: Width of the tokens.
        num_class_tokens: 1 if a class token precedes the patches, else 0.
        grid_size: Rows and columns of the patches.
        normalization: Mean and standard deviation of the RGB channels, for
            images in 0..1, that the weights need; None where only the config
            knows them.
    """

    name: str
    img_size: int
    frozen: bool
    out_channels: int
    num_class_tokens: int
    grid_size: tuple[int, int]
    normalization: Normalization | None

    def __call__(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: ``(B, 3, img_size, img_size)``, normalised.

        Returns:
            ``(B, num_class_tokens + h * w, out_channels)``.
        """

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Compile it for training."""


def check_images(images: Tensor, img_size: int) -> None:
    """Refuse images that the backbone does not take.

    Args:
        images: A batch.
        img_size: Side of the input of the backbone, in pixels.

    Raises:
        ValueError: They are not ``(B, 3, img_size, img_size)``.
    """
    if images.ndim != 4 or images.shape[1:] != (3, img_size, img_size):
        raise ValueError(
            f'images of shape {tuple(images.shape)} given; expected '
            f'(B, 3, {img_size}, {img_size}); set the size of the '
            'LoadImages transform to the img_size of the backbone.'
        )


def map_to_tokens(features: Tensor) -> Tensor:
    """Flatten a feature map: ``(B, C, h, w)`` to ``(B, h * w, C)``."""
    return features.flatten(2).transpose(1, 2)
