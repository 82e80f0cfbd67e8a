# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Datasets, transforms and the order of training samples."""

from ..images.read import read_image
from ..utils.sample_errors import SampleError
from .feature_cache import LoadFeatures
from .image_text_pairs import ImageTextPairs
from .instruction import InstructionDataset
from .preference import PreferenceDataset
from .samplers import EndlessSampler
from .transforms import (
    CleanCaption,
    DrawFlip,
    DrawQuestion,
    LoadImages,
    PackSample,
)

__all__ = [
    'CleanCaption',
    'DrawFlip',
    'DrawQuestion',
    'EndlessSampler',
    'ImageTextPairs',
    'InstructionDataset',
    'LoadFeatures',
    'LoadImages',
    'PackSample',
    'PreferenceDataset',
    'SampleError',
    'read_image',
]
