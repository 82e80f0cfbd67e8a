# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Build the vision parts of a model: backbone, neck and normaliser.

What the config does not set comes from the backbone: the widths of the neck,
and the normalisation that the backbone's weights need.
"""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from ..registry import MODELS
from .backbone import Backbone, Normalization
from .data_preprocessor import MEAN, STD, ImageNormalizer
from .eva_vit import EVAViT
from .mmpretrain_backbone import MMPretrainBackbone, is_of_mmpretrain


class VisionParts(NamedTuple):
    """The parts of a model that turn pixels into queries.

    Attributes:
        backbone: A :class:`~.backbone.Backbone`; None where images come as
            cached queries.
        neck: It reduces the backbone's tokens to queries.
        normalizer: The image normaliser, or another data preprocessor.
    """

    backbone: Any
    neck: Any
    normalizer: Any


def build_vision(
    backbone: Mapping | None,
    neck: Mapping,
    data_preprocessor: 'Mapping | nn.Module | None' = None,
) -> VisionParts:
    """Build the vision parts of a model from its config.

    Args:
        backbone: Config of the backbone, or None.
        neck: Config of the neck.
        data_preprocessor: Config of the image normaliser; None takes the
            normalisation of the backbone.

    Raises:
        ValueError: Two parts do not match each other.
    """
    built = None if backbone is None else build_backbone(backbone)
    return VisionParts(
        built,
        build_neck(neck, built),
        _build_normalizer(data_preprocessor, built),
    )


def build_backbone(config: Mapping) -> Any:
    """Build the backbone of a config.

    Args:
        config: Its config; a class of MMPretrain is wrapped in
            :class:`~.mmpretrain_backbone.MMPretrainBackbone`.

    Raises:
        ValueError: It is no vision encoder.
    """
    if is_of_mmpretrain(config['type']):
        return MMPretrainBackbone(**config)
    backbone = MODELS.build({**config})
    lacking = [
        name
        for name in Backbone.__annotations__
        if not hasattr(backbone, name) and name != 'normalization'
    ]
    if lacking:
        raise ValueError(
            f'the backbone {type(backbone).__name__} has no '
            f'{", ".join(lacking)}; expected the interface of '
            'minigpt4.models.backbone.'
        )
    return backbone


def build_neck(config: Mapping, backbone: Any) -> nn.Module:
    """Build the neck of a config after a backbone.

    Args:
        config: The neck's config; widths that it lacks are filled in.
        backbone: The backbone; None fills in nothing.

    Raises:
        ValueError: The config sets another width than the backbone's.
    """
    config = {**config}
    if backbone is None:
        return MODELS.build(config)
    height, width = backbone.grid_size
    sizes = dict(
        in_channels=backbone.out_channels,
        grid_size=(height, width),
        num_patches=height * width,
        num_class_tokens=backbone.num_class_tokens,
    )
    kind = config['type']
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        return MODELS.build(config)  # its error names the registries
    accepted = inspect.signature(kind).parameters
    for name, value in sizes.items():
        if name not in accepted:
            continue
        found = config.setdefault(name, value)
        if found != value and not (
            name == 'grid_size' and [*found] == [*value]
        ):
            raise ValueError(
                f'the neck {kind.__name__} has {name}={found}, but the '
                f'backbone {type(backbone).__name__} has {value}; remove '
                f'{name} from the neck, which takes it from the backbone.'
            )
    return MODELS.build(config)


def _build_normalizer(config: Any, backbone: Any) -> nn.Module:
    """Build the image normaliser, and compare it with the backbone's needs.

    Raises:
        ValueError: The config sets another normalisation.
    """
    needed = getattr(backbone, 'normalization', None)
    if config is None:
        if backbone is not None and needed is None:
            _require_known(backbone)
        config = dict(type=ImageNormalizer)
        if needed is not None:
            config.update(mean=needed[0], std=needed[1])
    if isinstance(config, nn.Module):
        return config
    if needed is not None:
        _check_normalization(config, needed, backbone.name)
    return MODELS.build({**config})


def _require_known(backbone: Any) -> None:
    """Refuse a backbone whose normalisation nothing states.

    The default of :class:`ImageNormalizer` is that of EVA-CLIP.

    Raises:
        ValueError: It is no EVA-ViT.
    """
    if not isinstance(backbone, EVAViT):
        raise ValueError(
            'the config has no data_preprocessor, and the weights of '
            f'{backbone.name} do not state their normalisation; set '
            'model.data_preprocessor=dict(type=ImageNormalizer, mean=..., '
            'std=...), for images in 0..1.'
        )


def _check_normalization(
    config: Mapping, needed: Normalization, name: str
) -> None:
    """Refuse another normalisation than the backbone's weights need.

    Args:
        config: That of the image normaliser.
        needed: Mean and standard deviation.
        name: Of the backbone, for the error.

    Raises:
        ValueError: It differs.
    """
    found, expected = (
        tuple(tuple(round(x, 6) for x in values) for values in pair)
        for pair in (
            (config.get('mean', MEAN), config.get('std', STD)),
            needed,
        )
    )
    if found != expected:
        raise ValueError(
            f'the config normalises with mean {found[0]} and std {found[1]}, '
            f'but the weights of {name} need mean {expected[0]} and std '
            f'{expected[1]}; remove data_preprocessor from the config, which '
            'then takes them from the backbone.'
        )
