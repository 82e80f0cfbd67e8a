# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Making a feature cache of a config's images, and training from it."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import (
    all_reduce,
    barrier,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..datasets.feature_cache import (
    FeatureCache,
    FeatureWriter,
    digest_of,
    read_bytes,
)
from ..images.read import SampleError, load_image
from ..models.data_preprocessor import ImageNormalizer
from ..registry import MODELS
from ..utils.errors import printable
from ..utils.signals import StopRequest
from ..weights.read import open_tensors

_BATCH = 64
_HEAD_BYTES = 64  # of each tensor, that tell weights from others


def maker_of(cfg: Config) -> dict:
    """What decides over the queries of an image, to keep beside them.

    Raises:
        ValueError: They would change in training, or are random.
    """
    maker: dict = {}
    for part in ('backbone', 'neck'):
        settings = {
            key: str(value) if key == 'type' else value
            for key, value in cfg.model[part].to_dict().items()
            if key not in ('checkpoint', 'dtype', 'frozen', 'dropout')
        }
        settings['type'] = settings['type'].rpartition('.')[2].rstrip("'>")
        if not cfg.model[part].get('frozen', True):
            raise ValueError(
                f'the {part} is trained (frozen=False), so its features '
                'change; only frozen ones can be kept.'
            )
        maker[part] = settings
        if settings['type'] != 'PatchMerge':  # it has no weights to load
            maker[f'{part} weights'] = _digest(cfg, part)
    if cfg.model.get('data_preprocessor'):
        maker['normaliser'] = cfg.model.data_preprocessor.to_dict()
    step = _loading_step(cfg.train_dataloader.dataset.pipeline)
    maker['image'] = dict(
        size=step.get('size', 224), exact=step.get('exact', False)
    )
    return maker


def _digest(cfg: Config, part: str) -> str:
    """Of a part's weights: names, shapes, types and the first values."""
    source = cfg.model[part].get('checkpoint')
    if source is None:
        raise ValueError(
            f'the {part} has no checkpoint, so its weights are random; set '
            f'model.{part}.checkpoint.'
        )
    digest = hashlib.sha256()
    for name, tensor in sorted(open_tensors(source).items()):
        digest.update(f'{name} {tensor.shape} {tensor.dtype}'.encode())
        head = tensor.read().reshape(-1)[:_HEAD_BYTES].contiguous()
        digest.update(head.view(torch.uint8).numpy()[:_HEAD_BYTES].tobytes())
    return digest.hexdigest()[:32]


def _loading_step(pipeline: list) -> dict:
    for step in pipeline:
        if str(step['type']).rpartition('.')[2].rstrip("'>") == 'LoadImages':
            return step
    raise ValueError(
        'the pipeline has no LoadImages; expected one whose images the cache '
        'stands in for.'
    )


def _datasets(cfg: Config) -> list:
    """The configs of all datasets that a training looks at."""
    found = [
        cfg[key].dataset
        for key in ('train_dataloader', 'val_dataloader')
        if cfg.get(key) is not None
    ]
    found += [
        hook.dataset
        for hook in (
            *cfg.get('default_hooks', {}).values(),
            *cfg.get('custom_hooks', []),
        )
        if hook is not None and hook.get('dataset') is not None
    ]
    return found


def use_features(cfg: Config, folder: str) -> None:
    """Let a config train from a cache, without vision weights and pixels.

    Args:
        cfg: The config; it is changed.
        folder: The cache.

    Raises:
        FileNotFoundError: There is no cache.
        ValueError: The cache was made otherwise than the config says.
    """
    cache = FeatureCache(folder)
    cache.check(maker_of(cfg))
    for dataset in _datasets(cfg):
        step = _loading_step(dataset.pipeline)
        step.clear()
        # names, not classes: the config is written to the log as text
        step.update(type='minigpt4.LoadFeatures', folder=str(folder))
    cfg.model.backbone = None
    cfg.model.neck = dict(
        type='minigpt4.CachedQueries',
        num_tokens=cache.shape[0],
        channels=cache.shape[1],
    )


class _Images(IterableDataset):
    """Digests and pixels of the images that a cache does not have yet.

    Shards (or single images) are shared out to ranks and data workers.
    """

    def __init__(self, datasets: list, step: dict, cache: FeatureCache):
        self.datasets, self.cache = datasets, cache
        self.size = step.get('size', 224)
        self.exact = step.get('exact', False)
        self.rank, self.ranks = get_rank(), get_world_size()

    def __iter__(self) -> Iterator[tuple[bytes, 'torch.Tensor | None', str]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        share, shares = self.rank * workers + number, self.ranks * workers
        for dataset in self.datasets:
            for name, source in dataset.image_sources(share, shares):
                try:
                    data = read_bytes(source)
                except SampleError as error:
                    yield b'', None, str(error)
                    continue
                digest = digest_of(data)
                if digest in self.cache or digest in self.cache.skipped:
                    yield digest, None, ''
                    continue
                try:
                    pixels = load_image(data, self.size, self.exact)
                except SampleError as error:
                    yield digest, None, f'{name}: {error}'
                else:
                    yield digest, pixels, ''


def cache_features(
    cfg: Config,
    folder: 'str | Path',
    device: str = 'auto',
    dtype: str = 'float16',
) -> dict[str, int]:
    """Run backbone and neck once over all images of a config's datasets.

    What is there already is kept, so a killed run goes on where it was. Each
    rank writes files of its own.

    Args:
        cfg: The config.
        folder: The cache.
        device: Where to run; ``'auto'`` is the GPU if there is one.
        dtype: Of the stored features, ``'float16'`` or ``'float32'``.

    Returns:
        How many images were ``added``, were there (``known``), and could not
        be read (``skipped``), of all ranks.

    A stop signal ends the run after the present batch is written. A second
    one ends it at once.

    Raises:
        ValueError: The folder holds a cache of another maker or type, or
            another process writes to it.
        OSError: The cache cannot be written (a full disk, say).
        StopSignal: A signal asked to stop; what was read is in the cache.
    """
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    maker = maker_of(cfg)
    backbone, neck = (
        MODELS.build(cfg.model[part]).to(device).eval()
        for part in ('backbone', 'neck')
    )
    shape = (neck.num_tokens, neck.out_channels)
    if not is_main_process():
        barrier()  # one rank says what makes the features
    writer = FeatureWriter(folder, maker, shape, dtype, get_rank())
    if is_main_process():
        barrier()
    barrier()
    datasets = [DATASETS.build(dataset) for dataset in _datasets(cfg)]
    step = _loading_step(cfg.train_dataloader.dataset.pipeline)
    images = _Images(datasets, step, FeatureCache(folder))
    workers = cfg.train_dataloader.get('num_workers', 0)
    loader = DataLoader(images, batch_size=None, num_workers=workers)
    normalizer = MODELS.build(
        cfg.model.get('data_preprocessor') or dict(type=ImageNormalizer)
    ).to(device)
    counts = dict(added=0, known=0, skipped=0)
    waiting: dict[bytes, torch.Tensor] = {}

    @torch.no_grad()
    def write() -> None:
        if waiting:
            pixels = normalizer.normalize(torch.stack([*waiting.values()]))
            writer.add(list(waiting), neck(backbone(pixels)))
            counts['added'] += len(waiting)
            waiting.clear()

    total = sum(dataset.num_images or 0 for dataset in datasets)
    try:
        with StopRequest() as stop, _progress() as bar:
            task = bar.add_task(
                'images', total=total // get_world_size() or None
            )
            for digest, pixels, fault in _until(stop, loader):
                if fault:
                    counts['skipped'] += 1
                    if digest:
                        writer.skip(digest)
                    print_log(
                        printable(f'skipped {fault}'),
                        'current',
                        level=logging.WARNING,
                    )
                elif pixels is None:
                    counts['known'] += 1
                else:
                    waiting[digest] = pixels
                    if len(waiting) == _BATCH:
                        write()
                bar.advance(task)
            write()
            stop.raise_if_requested()
    finally:
        writer.close()
    numbers = torch.tensor([*counts.values()], device=get_device())
    all_reduce(numbers)  # waits for all ranks
    return dict(zip(counts, numbers.tolist(), strict=True))


def _until(stop: StopRequest, loader: DataLoader) -> Iterator:
    """What a loader yields until a stop is requested."""
    try:
        for item in loader:
            if stop.signum is not None:
                return
            yield item
    except RuntimeError:
        # the signal may have ended the data workers too
        if stop.signum is None:
            raise


def _progress() -> Progress:
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not is_main_process(),
    )
