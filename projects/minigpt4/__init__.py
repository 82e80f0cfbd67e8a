# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""MiniGPT-4 as a plugin of MMPretrain.

Importing it registers the components (scope ``minigpt4``) with MMEngine and
the models (``minigpt-4_*``) with MMPretrain's model hub.
"""

from . import compat, deprecated

compat.apply()
deprecated.install()

from . import datasets, engine, models, nano  # noqa: E402
from .captioning.inferencer import get_model, inference_model  # noqa: E402
from .weights.checkpoint_files import register_loaders  # noqa: E402
from .weights.hub import register_models  # noqa: E402

register_models()
register_loaders()

__version__ = '0.1.0'
__all__ = [
    'datasets',
    'engine',
    'get_model',
    'inference_model',
    'models',
    'nano',
]
