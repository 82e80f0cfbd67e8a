# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Projected queries of the nano model, compared with word embeddings.

```shell
python benchmarks/projected_lengths.py
```

Each query of the nano Q-Former stands for one word of its scene. Prints, for
each word, the length of its projected queries in mean word embeddings, and
how often the word's own embedding is the nearest of these words.
"""

import argparse
import random
from collections import defaultdict

import numpy as np
import torch

from minigpt4 import get_model
from minigpt4.loading import quiet_logs
from minigpt4.nano import grammar
from minigpt4.nano.world import render, sample_scene


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scenes', type=int, default=150)
    parser.add_argument('--seed', type=int, default=5)
    args = parser.parse_args(argv)
    with quiet_logs():
        model = get_model('minigpt-4_nano_caption', device='cpu').eval()
    rng = random.Random(args.seed)
    scenes = [sample_scene(rng) for _ in range(args.scenes)]
    words = sorted({w for s in scenes for w in grammar.query_words(s) if w})
    tokenizer = model.decoder.tokenizer
    ids = [tokenizer.encode(w, add_special_tokens=False)[0] for w in words]
    table = model.decoder.llm.get_input_embeddings().weight
    unit = table.norm(dim=1).mean()
    directions = torch.nn.functional.normalize(table[ids], dim=1)
    lengths, nearest = defaultdict(list), defaultdict(list)
    for scene in scenes:
        pixels = np.asarray(render(scene, rng))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        queries = model.embed_images(model.data_preprocessor.normalize(image))
        for word, query in zip(
            grammar.query_words(scene), queries[0], strict=True
        ):
            if word:
                lengths[word].append(float(query.norm() / unit))
                found = words[int((directions @ query).argmax())]
                nearest[word].append(found == word)
    for word in words:
        print(
            f'{word:10} length {np.mean(lengths[word]):5.2f}, '
            f'nearest {np.mean(nearest[word]):.2f}'
        )


if __name__ == '__main__':
    main()
