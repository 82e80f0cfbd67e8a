# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Initialise the projection by ridge regression before stage 1."""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch import Tensor

from ...datasets import ImageTextPairs
from ...models.projector import LinearProjector
from ...prompts import TokenizedPrompt
from ...registry import HOOKS
from ..ranks import unwrapped_model

_BATCH_SIZE = 32


class _Moments(NamedTuple):
    """Sums over images of mean query ``x`` and target ``y``, fp64.

    Attributes:
        number: Number of images, ``(1,)``.
        x: Sum of the mean queries, ``(C,)``.
        y: Sum of the targets, ``(D,)``.
        xx: Sum of their outer products, ``(C, C)``.
        xy: The same of queries and targets, ``(C, D)``.
    """

    number: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor


@HOOKS.register_module()
class WarmStartHook(Hook):
    """Sets the projection so that an image resembles its caption's words.

    A ridge regression in closed form maps the mean of an image's queries to
    the mean of the LLM's input embeddings of the tokens in its caption. The
    tokens are weighted by the logarithm of their inverse document frequency,
    so that frequent words (``a``, ``of``) count little. Stage 1 then begins
    with a projection that depends on the image. A learned prefix of the head
    begins with the mean target. A run that resumes or loads
    a checkpoint is left unchanged.

    Not in the paper, where 20,000 steps make a warm start unnecessary.

    Args:
        num_samples: Training samples of the regression, over all ranks.
        ridge: Weight of the penalty, relative to the mean variance of the
            queries' channels.
        gain: Factor of the deviation from the mean target. The regression
            alone predicts vectors that are too close to the mean.

    Raises:
        ValueError: The head is not one linear layer, or no training sample
            can be read.
    """

    def __init__(
        self, num_samples: int = 10_000, ridge: float = 0.3, gain: float = 10.0
    ) -> None:
        self.num_samples = num_samples
        self.ridge = ridge
        self.gain = gain

    def before_train(self, runner: Runner) -> None:
        """Set the projection of a new run."""
        if runner.iter or runner.cfg.get('load_from'):
            return
        model = unwrapped_model(runner)
        layers: Any = getattr(model.head, 'layers', ())
        if not isinstance(model.head, LinearProjector) or len(layers) != 1:
            count = sum(isinstance(x, torch.nn.Linear) for x in layers)
            raise ValueError(
                'WarmStartHook sets one linear layer, but the head is a '
                f'{type(model.head).__name__} with {count} layers; remove '
                'the hook from the config.'
            )
        runner.logger.info(
            f'warm start of the projection from at most {self.num_samples:,} '
            'samples'
        )
        moments = self._sum_moments(model, self._samples(runner))
        if not moments.number:
            raise ValueError(
                f'none of the first {self.num_samples} training samples has '
                'an image that can be read; WarmStartHook needs images with '
                'captions.'
            )
        layer = layers[0]
        weight, bias = self._solve(moments)
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(bias)
        if model.head.prefix is not None:
            model.head.prefix.data.copy_(moments.y / moments.number)
        for parameter in model.head.parameters():
            dist.broadcast(parameter.data)
        runner.logger.info(
            f'warm start done: {int(moments.number)} samples, norm of the '
            f'weights {float(layer.weight.data.norm()):.3f}'
        )

    def _samples(self, runner: Runner) -> Iterator[Any]:
        """Yield this rank's share of the samples that can be read."""
        rank, world_size = dist.get_dist_info()
        dataset = DATASETS.build(
            copy.deepcopy(runner.cfg.train_dataloader.dataset)
        )
        share = -(-self.num_samples // world_size)
        if isinstance(dataset, ImageTextPairs):
            dataset.rank, dataset.world_size = rank, world_size
            dataset.batch_size = _BATCH_SIZE
            samples = (sample for batch in dataset for sample in batch)
        else:
            samples = (
                dataset[i] for i in range(rank, len(dataset), world_size)
            )
        return (s for s in islice(samples, share) if s is not None)

    @torch.no_grad()
    def _sum_moments(self, model: Any, samples: Iterator[Any]) -> _Moments:
        """Encode the samples and sum the moments over all ranks."""
        collator = model.collator(training=True)
        queries: list[Tensor] = []
        captions: list[Tensor] = []
        while batch := list(islice(samples, _BATCH_SIZE)):
            for sample in batch:
                ids = _supervised_ids(collator.tokenize(sample))
                captions += [ids] * len(sample.images)
            images = torch.stack([i for s in batch for i in s.images])
            images = images.to(model.data_preprocessor.device)
            if images.dtype == torch.uint8:
                images = model.data_preprocessor.normalize(images)
            queries += model.encode_images(images).mean(1).float().cpu()
        frequency = torch.zeros(model.decoder.vocab_size + 1).double()
        for ids in captions:
            frequency[ids] += 1
        frequency[-1] = len(captions)
        dist.all_reduce(frequency)
        rarity = (frequency[-1] / frequency.clamp(min=1)).log()
        width = model.decoder.hidden_size
        channels = model.head.layers[0].in_features
        moments = _Moments(
            *(
                torch.zeros(shape).double()
                for shape in (
                    (1,),
                    (channels,),
                    (width,),
                    (channels, channels),
                    (channels, width),
                )
            )
        )
        for start in range(0, len(captions), _BATCH_SIZE):
            part = slice(start, start + _BATCH_SIZE)
            x = torch.stack(queries[part]).double()
            targets = [
                _weighted_mean(model.decoder.embed_tokens, ids, rarity[ids])
                for ids in captions[part]
            ]
            y = torch.stack(targets)
            values = (
                torch.tensor([len(x)]).double(),
                x.sum(0),
                y.sum(0),
                x.T @ x,
                x.T @ y,
            )
            for total, value in zip(moments, values, strict=True):
                total += value
        for total in moments:
            dist.all_reduce(total)
        return moments

    def _solve(self, moments: _Moments) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the regression, with the gain."""
        number = moments.number
        x_mean, y_mean = moments.x / number, moments.y / number
        covariance = moments.xx / number - torch.outer(x_mean, x_mean)
        cross = moments.xy / number - torch.outer(x_mean, y_mean)
        penalty = self.ridge * covariance.diagonal().mean()
        covariance.diagonal().add_(penalty)
        weight = self.gain * torch.linalg.solve(covariance, cross).T
        return weight, y_mean - weight @ x_mean


def _supervised_ids(prompt: TokenizedPrompt) -> Tensor:
    """Return the different supervised token ids of a prompt."""
    pairs = zip(prompt.ids, prompt.supervised, strict=True)
    return torch.tensor(sorted({i for i, supervised in pairs if supervised}))


def _weighted_mean(embed: Any, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the embeddings of token ids, fp64."""
    embeddings = embed(ids[None])[0].double().cpu()
    total = weights.sum().clamp(min=1e-6)
    return (weights[:, None] * embeddings).sum(0) / total
