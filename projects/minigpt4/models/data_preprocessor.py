# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Move batches to the device, and normalise their images there."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor

from ..registry import MODELS

# OpenAI CLIP's constants, for images in 0..1
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@MODELS.register_module()
class ImageNormalizer(BaseDataPreprocessor):
    """Moves a collated batch to the model's device and normalises images.

    Images are uint8 until then, a quarter of the bytes.

    Args:
        mean: Mean of the RGB channels, for images in 0..1.
        std: Standard deviation of the RGB channels.

    Raises:
        ValueError: The values are of pixels in 0..255.
    """

    def __init__(
        self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        super().__init__(non_blocking=True)
        if max(*mean, *std) > 1:
            raise ValueError(
                f'ImageNormalizer has mean {tuple(mean)} and std '
                f'{tuple(std)}, which are of pixels in 0..255; divide them '
                'by 255.'
            )
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(
                name, torch.tensor(values).view(3, 1, 1), persistent=False
            )

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` uint8 to fp32, normalised, on this device."""
        pixels = images.to(self.device, non_blocking=True).to(
            torch.float32, memory_format=torch.contiguous_format, copy=True
        )
        return pixels.div_(255).sub_(self.mean).div_(self.std)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: A batch of the collator; ``images`` ``(N, 3, H, W)`` uint8,
                or ``(N, Q, C)`` floating-point queries, which do not change.
            training: Not used.

        Returns:
            ``images`` fp32 normalised, ``inputs`` on the device, ``samples``.
        """
        images, inputs = data['images'], data['inputs']
        if images is not None:
            images = images.to(self.device, non_blocking=True)
            if images.dtype == torch.uint8:
                images = self.normalize(images)
        inputs = type(inputs)(
            *(
                t.to(self.device, non_blocking=True)
                if isinstance(t, torch.Tensor)
                else t
                for t in inputs
            )
        )
        return dict(images=images, inputs=inputs, samples=data.get('samples'))
