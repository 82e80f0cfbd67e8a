# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The four components of MiniGPT-4 and their composition."""

from .data_preprocessor import ImageNormalizer
from .decoder import LLMDecoder
from .efficientnet_lite import EfficientNetLite
from .eva_vit import EVAViT
from .hf_backbone import HFVisionBackbone
from .minigpt4 import MiniGPT4
from .mmpretrain_backbone import MMPretrainBackbone
from .patch_tokens import PatchTokens
from .projector import LinearProjector
from .q_former import CachedQueries, PatchMerge, QFormer

__all__ = [
    'CachedQueries',
    'EVAViT',
    'EfficientNetLite',
    'HFVisionBackbone',
    'ImageNormalizer',
    'LLMDecoder',
    'LinearProjector',
    'MMPretrainBackbone',
    'MiniGPT4',
    'PatchMerge',
    'PatchTokens',
    'QFormer',
]
