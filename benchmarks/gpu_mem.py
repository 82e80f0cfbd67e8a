# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Peak memory of a GPU for a training step of 64 samples, and an answer.

The guard is that the peak is at least the size of the weights.
"""

import gpu
import gpu_training
import harness
import mini_prop
import torch

TRAIN, ANSWER = dict(at_most=32), dict(at_most=16.5)
GB = 1e9


def _peak(device: str) -> float:
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / GB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB


def measure(
    name: str, size: str = 'vicuna-7b', device: str = 'cuda'
) -> list[dict]:
    """Measure the rows: training, then answering."""
    names = (f'{name} training', f'{name} answer')
    if device == 'cuda' and not torch.cuda.is_available():
        return [
            gpu.no_gpu(names[0], 'GB', **TRAIN),
            gpu.no_gpu(names[1], 'GB', **ANSWER),
        ]
    stage = gpu_training.STAGES['s1-h200']._replace(batch=64)
    model, samples, wrapper = gpu_training.trainer(stage, size, device)
    weights = (
        sum(p.numel() * p.element_size() for p in model.parameters()) / GB
    )

    def reset() -> None:
        if device == 'cuda':
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def row(name: str, goals: dict) -> dict:
        peak = _peak(device)
        return harness.row(
            name,
            peak,
            'GB',
            guard_ok=peak >= weights,
            guard=f'at least the weights, {weights:.3g} GB',
            **goals,
        )

    reset()
    model.train_step(model.collator(training=True)(samples), wrapper)
    gpu.wait(device)
    training = row(names[0], TRAIN)
    reset()
    one = mini_prop.samples(
        ['<Img><ImageHere></Img> ' + mini_prop.ALIGNMENT_PROMPTS[0]],
        [None],
        mini_prop.images(1, size),
    )
    model.generate(one, max_new_tokens=100, do_sample=False)
    gpu.wait(device)
    return [training, row(names[1], ANSWER)]


if __name__ == '__main__':
    gpu.main(measure, ['mem'])
