# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How exact the gradient of the projection is with a quantized nano LLM.

```shell
python benchmarks/quantized_gradients.py
```

One batch of descriptions and a new projection. Prints the cosine similarity
of the gradient to that of the fp32 model. Needs the extra ``quant``.
"""

import argparse
import random

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import BaseDataElement
from torch import Tensor

from minigpt4.loading import quiet_logs
from minigpt4.models import MiniGPT4
from minigpt4.nano import grammar
from minigpt4.nano.pretrain import model_config
from minigpt4.nano.world import render, sample_scene
from minigpt4.prompts import Turn
from minigpt4.registry import MODELS

QUANTIZED = {
    'not quantized': None,
    '8-bit': dict(load_in_8bit=True),
    '4-bit, nf4': dict(load_in_4bit=True, bnb_4bit_quant_type='nf4'),
    '4-bit, fp4': dict(load_in_4bit=True, bnb_4bit_quant_type='fp4'),
}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--samples', type=int, default=4)
    args = parser.parse_args(argv)
    batch = samples(args.samples)
    with quiet_logs():
        full = build('float32', None)
    expected = gradient(full, batch)
    head = full.head.state_dict()
    for name, settings in QUANTIZED.items():
        for dtype in ('float32', 'bfloat16'):
            with quiet_logs():
                model = build(dtype, settings)
            model.head.load_state_dict(head)
            cosine = torch.cosine_similarity(
                gradient(model, batch), expected, dim=0
            )
            print(f'{name}, {dtype}: {cosine.item():.4f}', flush=True)


def build(dtype: str, quantization: dict | None) -> MiniGPT4:
    """The nano model with a new projection."""
    config = model_config()
    config['decoder']['dtype'] = dtype
    if quantization is not None:
        config['decoder']['quantization'] = quantization
    torch.manual_seed(0)
    return MODELS.build(config).train()


def samples(number: int) -> list[BaseDataElement]:
    """Images of scenes with their descriptions."""
    rng = random.Random(0)
    found = []
    for _ in range(number):
        scene = sample_scene(rng)
        pixels = np.array(render(scene, rng))
        asked = f'<Img><ImageHere></Img> {grammar.DESCRIBE[0]}'
        found.append(
            BaseDataElement(
                images=[torch.from_numpy(pixels).permute(2, 0, 1)],
                turns=[Turn(asked, grammar.description(scene))],
            )
        )
    return found


def gradient(model: MiniGPT4, batch: list[BaseDataElement]) -> Tensor:
    """The gradient of the projection's weight, flat."""
    weight = model.head.layers[0].weight
    before = weight.detach().clone()
    step = OptimWrapper(torch.optim.SGD([weight], lr=1.0))
    model.train_step(batch, step)
    change = (before - weight.detach()).flatten()
    weight.data.copy_(before)
    return change


if __name__ == '__main__':
    main()
