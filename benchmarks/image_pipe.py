# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images per second and CPU core, from JPEG files to a batch.

Our pipeline ends with a batch of uint8, which the device normalises; the
official one with a batch of normalised fp32; MMPretrain's with a batch of
uint8.

    python benchmarks/image_pipe.py SIDE KIND FOLDER
"""

import io
import multiprocessing
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import harness
import numpy as np
import photographs

BATCH = 64
SHARDS, BATCHES, WORKERS = 8, 6, 2
# OpenAI CLIP's constants
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def ours(paths: list[Path]) -> Callable:
    """Our transform and the stacking of the collator."""
    from minigpt4.images.read import load_image
    from minigpt4.models.collator import stack_images

    files = [path.read_bytes() for path in paths]
    return lambda: stack_images(
        [load_image(f, 224, exact=False) for f in files]
    )


def official_transform() -> Callable:
    """Reimplement Blip2ImageTrainProcessor."""
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize(
                (224, 224),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def official(paths: list[Path]) -> Callable:
    """Pillow, the transforms of torchvision, and a stack of fp32."""
    import torch
    from PIL import Image

    transform = official_transform()
    files = [path.read_bytes() for path in paths]

    def work():
        return torch.stack(
            [
                transform(Image.open(io.BytesIO(f)).convert('RGB'))
                for f in files
            ]
        )

    return work


def mmpretrain(paths: list[Path]) -> Callable:
    """The pipeline and collate function of MMPretrain's MiniGPT-4 config.

    Without RandomFlip, so that the pixels can be compared, and without the
    transform of captions.
    """
    import mmpretrain.datasets  # noqa: F401
    from mmengine.dataset import Compose, default_collate
    from mmpretrain.registry import TRANSFORMS
    from mmpretrain.utils import register_all_modules

    register_all_modules()
    steps = [
        dict(type='LoadImageFromFile'),
        dict(
            type='Resize',
            scale=(224, 224),
            interpolation='bicubic',
            backend='pillow',
        ),
        dict(type='PackInputs', meta_keys=['image_id']),
    ]
    pipeline = Compose([TRANSFORMS.build(step) for step in steps])

    def work():
        records = [dict(img_path=str(p), image_id=p.stem) for p in paths]
        return default_collate([pipeline(r) for r in records])['inputs']

    return work


def from_paths(paths: list[Path]) -> Callable:
    """Our pipeline from files, as MMPretrain reads them."""
    from minigpt4.images.read import load_image
    from minigpt4.models.collator import stack_images

    return lambda: stack_images(
        [load_image(p, 224, exact=False) for p in paths]
    )


def levels(batch) -> np.ndarray:
    """Convert a batch to RGB in 0..255."""
    import torch

    if batch.dtype == torch.uint8:
        return batch.float().numpy()
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return ((batch * std + mean) * 255).round().numpy()


# complete pipelines, with data workers


def our_loader(shards: str) -> Iterable:
    """From shards to collated batches: tokenised, packed, uint8."""
    from mmengine.config import Config
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer

    import minigpt4
    from minigpt4.datasets import ImageTextPairs
    from minigpt4.models.collator import Collator
    from minigpt4.prompts import get_template

    config = Config.fromfile(
        harness.HERE.parent / 'configs/minigpt4/_base_/stage1.py'
    )
    pipeline = config.train_dataloader.dataset.pipeline
    dataset = ImageTextPairs(
        [dict(name='photographs', shards=shards, weight=1)],
        pipeline,
        batch_size=BATCH,
    )
    collator = Collator(
        AutoTokenizer.from_pretrained(
            Path(minigpt4.__file__).parent / 'nano/weights/llm'
        ),
        get_template('bare'),
        32,
        max_text_length=32,
        pack_length=256,
        share_prefix=True,
    )
    return DataLoader(
        dataset, batch_size=None, num_workers=WORKERS, collate_fn=collator
    )


def official_loader(shards: str) -> Iterable:
    """Reimplement the official webdataset pipeline with default collation."""
    import webdataset
    from torch.utils.data import DataLoader

    def clean(record):
        text = re.sub(r'[.!"()*#:;~]', ' ', record['caption'].lower())
        return ' '.join(re.sub(r'\s{2,}', ' ', text).strip().split(' ')[:50])

    dataset = webdataset.DataPipeline(
        webdataset.ResampledShards(shards),
        webdataset.tarfile_to_samples(),
        webdataset.shuffle(1000),
        webdataset.decode('pilrgb'),
        webdataset.to_tuple('jpg', 'json'),
        webdataset.map_tuple(official_transform()),
        webdataset.map(
            lambda pair: dict(image=pair[0], answer=clean(pair[1]))
        ),
    )
    return DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process."""
    tasks = Path(f'/proc/{pid}/task').glob('*/schedstat')
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def idle_cpu_seconds(workers: list[int]) -> float:
    """Wait until the workers have filled their queues; return CPU time."""
    before = -1.0
    while (now := sum(map(cpu_seconds, workers))) - before > 2e-3:
        before = now
        time.sleep(0.3)
    return now


def batch_timer(batches: Iterator) -> Callable:
    """Return a function that measures the CPU time of some batches."""
    workers = [process.pid for process in multiprocessing.active_children()]

    def work() -> float:
        start = idle_cpu_seconds(workers)
        own = time.process_time()
        for _ in range(BATCHES):
            next(batches)
        own = time.process_time() - own
        return idle_cpu_seconds(workers) - start + own

    return work


def build(side: str, kind: str, folder: str):
    """Return the function to measure and the values to compare."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    if side.endswith('-shards'):
        shards = f'{folder}/shards/{{00000..{SHARDS - 1:05d}}}.tar'
        loader = dict(ours=our_loader, official=official_loader)
        batches = iter(loader[side.removesuffix('-shards')](shards))
        first = next(batches)
        images = first['pieces'][0] if 'pieces' in first else first
        images = images.get('images', images.get('image'))
        return batch_timer(batches), dict(shape=list(images.shape))
    paths = sorted((Path(folder) / kind).glob('*.jpg'))
    sides = dict(
        ours=ours,
        official=official,
        mmpretrain=mmpretrain,
        paths=from_paths,
    )
    batch = sides[side](paths)
    images = levels(batch())
    if side == 'mmpretrain':
        images = images[:, ::-1]  # BGR

    def work() -> None:
        batch()

    return work, dict(levels=images)


def difference(kind: str, paths: list[Path]) -> str:
    """Describe the differences from the official values."""
    differences = np.abs(levels(ours(paths)()) - levels(official(paths)()))
    largest = differences.max()
    fractions = [
        f'{(differences == step).mean():.2g} of the values differ by {step}'
        for step in range(1, int(largest) + 1)
    ]
    return '; '.join([f'largest difference {largest:.0f}/255', *fractions])


def measure(repeats: int) -> list[dict]:
    """Measure all rows."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind, goal in (('224', 3.5), ('640x480', 2)):
            paths = photographs.write_files(folder / kind, kind, BATCH)
            for own, peer, name in (
                ('ours', 'official', 'official, reimplemented'),
                ('paths', 'mmpretrain', 'MMPretrain 1.2.0'),
            ):
                rows.append(
                    harness.compare(
                        f'image-pipe {kind}, {peer}',
                        harness.side('image_pipe.py', own, kind, folder),
                        harness.side('image_pipe.py', peer, kind, folder),
                        'images/CPU-s',
                        goal if peer == 'official' else None,
                        peer_name=name,
                        per=BATCH,
                        tolerance=1 / 255,
                        repeats=repeats,
                    )
                )
            rows[-2]['guard'] += '; ' + difference(kind, paths)
            sizes = [path.stat().st_size for path in paths]
            rows[-2]['jpeg_bytes'] = sum(sizes) / len(sizes)
        photographs.write_shards(
            sorted((folder / '224').glob('*.jpg')), folder / 'shards', SHARDS
        )
        rows.append(
            harness.compare(
                'image-pipe shards, official',
                harness.side('image_pipe.py', 'ours-shards', '224', folder),
                harness.side(
                    'image_pipe.py', 'official-shards', '224', folder
                ),
                'images/CPU-s',
                3.5,
                peer_name='official, reimplemented',
                per=BATCH * BATCHES,
                repeats=repeats,
            )
        )
    return rows


if __name__ == '__main__':
    harness.worker(lambda: build(*sys.argv[1:4]))
