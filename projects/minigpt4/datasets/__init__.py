# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Datasets, transforms and the order of training samples."""

from ..images.read import read_image
from ..utils.sample_errors import SampleError
from .feature_cache import LoadFeatures
from .image_text_pairs import ImageTextPairs
from .instruction import InstructionDataset
from .mixed import MixedDataset
from .preference import PreferenceDataset
from .samplers import EndlessSampler, MixedSampler
from .transforms import (
    CleanCaption,
    DrawFlip,
    DrawQuestion,
    FormatQuestion,
    LoadImages,
    PackSample,
)

__all__ = [
    'CleanCaption',
    'DrawFlip',
    'DrawQuestion',
    'EndlessSampler',
    'FormatQuestion',
    'ImageTextPairs',
    'InstructionDataset',
    'LoadFeatures',
    'LoadImages',
    'MixedDataset',
    'MixedSampler',
    'PackSample',
    'PreferenceDataset',
    'SampleError',
    'read_image',
]
