# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The same weights and image for EfficientNet-Lite of two projects.

    python tests/parity/efficientnet_lite.py

writes ``references/efficientnet_lite.safetensors``, a part of the features of
the package ``efficientnet-lite-pytorch`` (0.1.0), which has to be installed.
"""

from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file

REFERENCE = Path(__file__).parent / 'references/efficientnet_lite.safetensors'
ARCHS = {'lite0': 97, 'lite2': 64}  # an odd and an even side
CHANNELS = 32  # every 40th of 1280


def make_weights(module) -> dict[str, torch.Tensor]:
    """Weights by the package's names, with values from NumPy.

    Activations keep their size: convolutions are scaled by their inputs.

    Args:
        module: A network of the package, or any with its names and shapes.
    """
    draw = numpy.random.RandomState(0)
    weights = {}
    for name, tensor in sorted(module.state_dict().items()):
        shape = tuple(tensor.shape)
        if name.endswith('num_batches_tracked'):
            weights[name] = tensor
            continue
        values = draw.normal(size=shape)
        if tensor.ndim == 4:
            values *= (2 / numpy.prod(shape[1:])) ** 0.5
        elif name.endswith('running_var'):
            values = 1 + 0.2 * numpy.abs(values)
        elif name.endswith('weight'):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        weights[name] = torch.from_numpy(values).float()
    return weights


def make_image(side: int) -> torch.Tensor:
    """A normalised image ``(1, 3, side, side)``."""
    values = numpy.random.RandomState(1).normal(size=(1, 3, side, side))
    return torch.from_numpy(values).float()


def sample(features: torch.Tensor) -> torch.Tensor:
    """Every 40th channel of ``(1, 1280, h, w)``."""
    return features[:, :: 1280 // CHANNELS].contiguous()


@torch.no_grad()
def main() -> None:
    """Store the features of the package."""
    from efficientnet_lite_pytorch import EfficientNet

    stored = {}
    for arch, side in ARCHS.items():
        peer = EfficientNet.from_name(
            f'efficientnet-{arch}', image_size=side
        ).eval()
        peer.load_state_dict(make_weights(peer))
        stored[arch] = sample(peer.extract_features(make_image(side)))
    save_file(stored, REFERENCE, dict(peer='efficientnet-lite-pytorch 0.1.0'))


if __name__ == '__main__':
    main()
