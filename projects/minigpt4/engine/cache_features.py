# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Make a feature cache of the images of a config, and train from it."""

import copy
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..actors.chunks import run_chunks
from ..actors.cluster import current_cluster
from ..datasets.feature_cache import FeatureCache, image_digest, read_source
from ..datasets.feature_writer import FeatureWriter
from ..datasets.mixed import part_configs
from ..images.jpeg_decoder import jpeg_codec
from ..images.read import load_image
from ..models.hf_backbone import vision_folder
from ..models.vision import VisionParts, build_vision
from ..models.vision_fingerprint import compute_vision_fingerprint
from ..utils.errors import printable
from ..utils.progress import progress_bar
from ..utils.sample_errors import SampleError
from ..utils.signals import StopRequest
from ..weights.image_processor import read_normalization
from ..weights.read import open_tensors

BATCH_SIZE = 64
# settings of a module that do not change its features, or whose files are
# digested
_NOT_COMPARED = ('checkpoint', 'name_or_path', 'dtype', 'frozen', 'dropout')
_WITHOUT_WEIGHTS = ('PatchMerge', 'PatchTokens')
# bytes of each tensor that the digest of the weights includes
_HEAD_BYTES = 64


def provenance_of(cfg: Config) -> dict:
    """Collect the settings and weights that determine an image's features.

    Returns:
        A JSON object; the cache stores it and compares it when it is used.

    Raises:
        ValueError: Backbone or neck is trained, or has random weights.
    """
    provenance: dict = {}
    for module in ('backbone', 'neck'):
        settings = {
            key: value
            for key, value in cfg.model[module].to_dict().items()
            if key not in _NOT_COMPARED
        }
        # a setting may be a class
        settings = json.loads(json.dumps(settings, default=_class_name))
        settings['type'] = _class_name(settings['type'])
        if not cfg.model[module].get('frozen', True):
            raise ValueError(
                f'the {module} is trained (frozen=False), so its features '
                'change; only features of frozen modules can be cached.'
            )
        provenance[module] = settings
        if settings['type'] == 'HFVisionBackbone':
            folder = vision_folder(cfg.model[module].name_or_path)
            config = (folder / 'config.json').read_bytes()
            provenance['backbone config'] = hashlib.sha256(config).hexdigest()
            provenance['backbone normalisation'] = [
                [*values] for values in read_normalization(folder) or ()
            ]
            provenance['backbone weights'] = _weights_digest(folder)
        elif settings['type'] not in _WITHOUT_WEIGHTS:
            source = _weights_source(cfg, module)
            provenance[f'{module} weights'] = _weights_digest(source)
    if cfg.model.get('data_preprocessor'):
        provenance['normaliser'] = cfg.model.data_preprocessor.to_dict()
    transform = _training_transform(cfg)
    provenance['image'] = dict(
        size=transform.get('size', 224), exact=transform.get('exact', False)
    )
    return provenance


def _class_name(value: object) -> str:
    """Return the name of a class, given as class or as dotted path."""
    return str(value).rpartition('.')[2].rstrip("'>")


def _weights_source(cfg: Config, module: str) -> str:
    """Return the checkpoint of a module.

    Raises:
        ValueError: It has none, so its weights are random.
    """
    source = cfg.model[module].get('checkpoint')
    if source is None:
        raise ValueError(
            f'the {module} has no checkpoint, so its weights are random; set '
            f'model.{module}.checkpoint.'
        )
    return source


def _weights_digest(source: 'str | Path') -> str:
    """Digest names, shapes, types and first values of a source's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(open_tensors(source).items()):
        digest.update(f'{name} {tensor.shape} {tensor.dtype}'.encode())
        head = tensor.read().reshape(-1)[:_HEAD_BYTES].contiguous()
        digest.update(head.view(torch.uint8).numpy()[:_HEAD_BYTES].tobytes())
    return digest.hexdigest()[:32]


def _load_images_config(pipeline: list) -> dict:
    """Return the config of LoadImages in a pipeline."""
    for transform in pipeline:
        if _class_name(transform['type']) == 'LoadImages':
            return transform
    raise ValueError(
        'the pipeline has no LoadImages; expected one, which the cache '
        'replaces.'
    )


def _training_transform(cfg: Config) -> dict:
    """Return the config of LoadImages in training.

    Raises:
        ValueError: The parts of a mixture load images differently.
    """
    found = [
        _load_images_config(part.pipeline)
        for part in part_configs(cfg.train_dataloader.dataset)
    ]
    for other in found[1:]:
        if {**other} != {**found[0]}:
            raise ValueError(
                f'the data sets of the training load images as {found[0]} and '
                f'as {other}; a cache has one kind of images.'
            )
    return found[0]


def _has_flips(dataset: dict) -> bool:
    """Whether the pipeline of a dataset config flips images."""
    return any(
        _class_name(transform['type']) == 'DrawFlip'
        for transform in dataset.get('pipeline', ())
    )


def _dataset_configs(cfg: Config) -> list:
    """Return the configs of all datasets that a training reads."""
    found = [
        cfg[key].dataset
        for key in ('train_dataloader', 'val_dataloader')
        if cfg.get(key) is not None
    ]
    hooks = (
        *cfg.get('default_hooks', {}).values(),
        *cfg.get('custom_hooks', []),
    )
    for hook in hooks:
        if hook is None or not hook.get('dataset'):
            continue
        if 'type' not in hook.dataset:  # changes the training data's
            merged = copy.deepcopy(cfg.train_dataloader.dataset)
            # keeps lazy types, so that the config can be logged as text
            merged.update(hook.dataset)
            hook.dataset = merged
        found.append(hook.dataset)
    return [part for config in found for part in part_configs(config)]


def use_features(cfg: Config, folder: str) -> None:
    """Change a config to train from a cache, without vision weights.

    Args:
        cfg: The config; it is changed.
        folder: The cache.

    Raises:
        FileNotFoundError: There is no cache.
        ValueError: The cache does not belong to the config.
    """
    cache = FeatureCache(folder)
    cache.check(provenance_of(cfg))
    for dataset in _dataset_configs(cfg):
        transform = _load_images_config(dataset.pipeline)
        transform.clear()
        # names, not classes: the config is written to the log as text
        transform.update(type='minigpt4.LoadFeatures', folder=str(folder))
    cfg.model.backbone = None
    cfg.model.neck = dict(
        type='minigpt4.CachedQueries',
        num_tokens=cache.shape[0],
        channels=cache.shape[1],
        vision_fingerprint=cache.vision_fingerprint,
    )


class _UncachedImages(IterableDataset):
    """Yields digest, pixels and error of each image for a cache.

    The pixels are None for an image that is cached or cannot be read. Every
    data worker of every rank reads its own shards or images.

    Args:
        datasets: The datasets, each with whether it flips images: then both
            orientations are encoded.
        transform: Config of LoadImages.
        cache: The cache as it was opened.
    """

    def __init__(
        self,
        datasets: list[tuple[Any, bool]],
        transform: dict,
        cache: FeatureCache,
    ) -> None:
        self.datasets, self.cache = datasets, cache
        self.size = transform.get('size', 224)
        self.exact = transform.get('exact', False)
        self.rank, self.world_size = get_rank(), get_world_size()
        if not self.exact:
            jpeg_codec()  # imported once, before data workers are forked

    def __iter__(self) -> Iterator[tuple[bytes, 'torch.Tensor | None', str]]:
        info = get_worker_info()
        worker_id, num_workers = (
            (info.id, info.num_workers) if info else (0, 1)
        )
        start = self.rank * num_workers + worker_id
        step = self.world_size * num_workers
        for dataset, flips in self.datasets:
            for name, source in dataset.image_sources(start, step):
                try:
                    data = read_source(source)
                except SampleError as error:
                    yield b'', None, str(error)
                    continue
                for flipped in (False, True)[: 1 + flips]:
                    yield self._encoder_input(name, data, flipped)

    def _encoder_input(
        self, name: str, data: bytes, flipped: bool
    ) -> tuple[bytes, 'torch.Tensor | None', str]:
        digest = image_digest(data, flipped)
        if digest in self.cache or digest in self.cache.skipped:
            return digest, None, ''
        try:
            pixels = load_image(data, self.size, self.exact)
        except SampleError as error:
            return digest, None, f'{name}: {error}'
        return digest, pixels.flip(-1) if flipped else pixels, ''


def cache_features(
    cfg: Config,
    folder: 'str | Path',
    device: str = 'auto',
    dtype: str = 'float16',
) -> dict[str, int]:
    """Run backbone and neck once over all images of a config's datasets.

    With ``--ray``, actors run them; this process reads and decodes the images
    and writes the features, in the same batches and order.

    Cached images are kept, so a killed run is resumed. Each rank writes its
    own files. A stop signal ends the run after the current batch is written;
    a second one ends it immediately.

    Args:
        cfg: The config.
        folder: The cache.
        device: Device of backbone and neck; ``'auto'`` is the GPU if there
            is one.
        dtype: Type of the stored features, ``'float16'`` or ``'float32'``.

    Returns:
        How many images were ``added``, already cached (``known``), and
        unreadable (``skipped``), over all ranks; with flips, a flipped
        image counts as another one.

    Raises:
        ValueError: The folder contains a cache of another provenance or
            type, or another process writes to it.
        OSError: The cache cannot be written, e.g. on a full disk.
        StopSignal: A signal requested to stop; all images that were read are
            in the cache.
    """
    provenance = provenance_of(cfg)
    build = functools.partial(
        build_vision,
        cfg.model.backbone,
        cfg.model.neck,
        cfg.model.get('data_preprocessor'),
    )
    parts = build()
    writer = _open_writer(
        folder,
        provenance,
        (parts.neck.num_tokens, parts.neck.out_channels),
        dtype,
        compute_vision_fingerprint(*parts),
    )
    if current_cluster() is None:
        build = functools.partial(_same, parts)
    del parts  # with actors, not in the memory of this process
    datasets = [
        (DATASETS.build(config), _has_flips(config))
        for config in _dataset_configs(cfg)
    ]
    transform = _training_transform(cfg)
    loader = DataLoader(
        _UncachedImages(datasets, transform, FeatureCache(folder)),
        batch_size=None,
        num_workers=cfg.train_dataloader.get('num_workers', 0),
    )
    counts = dict(added=0, known=0, skipped=0)

    def batches(items: Iterator) -> Iterator[dict[bytes, Tensor]]:
        """Count the items; yield the pixels of new images by digest."""
        batch: dict[bytes, Tensor] = {}
        for digest, pixels, error in items:
            if error:
                counts['skipped'] += 1
                if digest:
                    writer.skip(digest)
                print_log(
                    printable(f'skipped {error}'),
                    'current',
                    level=logging.WARNING,
                )
            elif pixels is None:
                counts['known'] += 1
            else:
                batch[digest] = pixels
                if len(batch) == BATCH_SIZE:
                    yield batch
                    batch = {}
            bar.advance(task)
        if batch:
            yield batch

    try:
        with (
            StopRequest() as stop,
            progress_bar(visible=is_main_process()) as bar,
        ):
            task = bar.add_task('images', total=_num_images(datasets))
            for batch, features in run_chunks(
                functools.partial(_make_encoder, build, device),
                batches(_until_stopped(loader, stop)),
                ordered=True,
            ):
                writer.add(list(batch), features)
                counts['added'] += len(batch)
            stop.raise_if_requested()
    finally:
        writer.close()
    numbers = torch.tensor([*counts.values()], device=get_device())
    all_reduce(numbers)  # waits for all ranks
    return dict(zip(counts, numbers.tolist(), strict=True))


def _num_images(datasets: list[tuple[Any, bool]]) -> int | None:
    """Images of this rank; None with shards, which do not say how many."""
    numbers = [dataset.num_images for dataset, _ in datasets]
    if None in numbers:
        return None
    images = sum(n * (1 + flips) for n, (_, flips) in zip(numbers, datasets))
    return images // get_world_size()


def _same(parts: VisionParts) -> VisionParts:
    return parts


def _make_encoder(
    build: Callable[[], VisionParts], device: str
) -> Callable[[Mapping[bytes, Tensor]], list[Tensor]]:
    """Make a function of pixels by digest to one batch of features."""
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    backbone, neck, normalizer = (
        module.to(device).eval() for module in build()
    )

    @torch.no_grad()
    def encode(batch: Mapping[bytes, Tensor]) -> list[Tensor]:
        pixels = normalizer.normalize(torch.stack([*batch.values()]))
        return [neck(backbone(pixels)).to('cpu', torch.float32)]

    return encode


def _open_writer(
    folder: 'str | Path',
    provenance: dict,
    shape: tuple[int, int],
    dtype: str,
    vision_fingerprint: dict | None,
) -> FeatureWriter:
    """Open the writer of this rank; the main process writes ``cache.json``."""
    if not is_main_process():
        barrier()
    writer = FeatureWriter(
        folder, provenance, shape, dtype, get_rank(), vision_fingerprint
    )
    if is_main_process():
        barrier()
    barrier()
    return writer


def _until_stopped(loader: DataLoader, stop: StopRequest) -> Iterator:
    """Yield the items of a loader until a stop is requested."""
    try:
        for item in loader:
            if stop.signum is not None:
                return
            yield item
    except RuntimeError:
        # the signal may also have ended the data workers
        if stop.signum is None:
            raise
