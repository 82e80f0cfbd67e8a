# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images per second through EVA-ViT-g and the Q-Former on a GPU.

The guard: an image's queries do not depend on its batch.
"""

import time

import gpu
import mini_prop
import torch

GOALS = dict(at_least=1050)
BATCH, STEPS = 128, 10
TOLERANCE = 2e-2  # bf16, sums in another order


def measure(
    name: str, size: str = 'vicuna-7b', device: str = 'cuda'
) -> list[dict]:
    """The row."""
    from minigpt4.registry import MODELS

    if device == 'cuda' and not torch.cuda.is_available():
        return [gpu.no_gpu(name, 'images/s', **GOALS)]
    folder = mini_prop.weights('tiny')
    configs = mini_prop.part_configs(folder, size, load=False)
    with torch.device(device):
        backbone = MODELS.build(configs['backbone'])
        neck = MODELS.build(configs['neck'])
        normalizer = MODELS.build(dict(type='minigpt4.ImageNormalizer'))
    normalizer = normalizer.to(device)
    pixels = mini_prop.images(BATCH, size).to(device)

    @torch.no_grad()
    def encode(images):
        return neck(backbone(normalizer.normalize(images)))

    large, small = encode(pixels)[:2], encode(pixels[:2])
    error = (large - small).norm() / small.norm()
    gpu.wait(device)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        encode(pixels)
        gpu.wait(device)
        times.append(time.perf_counter() - start)
    figures = [BATCH / t for t in (min(times), sorted(times)[STEPS // 2])]
    return [
        gpu.row(
            name, figures, 'images/s', (1 + error.item(), 1), TOLERANCE, GOALS
        )
    ]


if __name__ == '__main__':
    gpu.main(measure, ['vit-encode'])
