# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""MiniGPT-4 as a plugin of MMPretrain.

Importing it registers the components (scope ``minigpt4``) with MMEngine and
the models (``minigpt-4_*``) with MMPretrain's model hub. ``__all__`` is the
public API; what is not needed for registration is imported at first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import compat, deprecated

compat.apply()
deprecated.install()

from . import datasets, engine, models, nano  # noqa: E402
from .captioning.inferencer import get_model, inference_model  # noqa: E402
from .weights.checkpoint_files import register_loaders  # noqa: E402
from .weights.model_hub import register_models  # noqa: E402

if TYPE_CHECKING:
    from . import convert
    from .chat.session import ChatSession
    from .generation.engine import Engine
    from .generation.worker import EngineWorker
    from .images.read import load_image, read_image
    from .prompts import PromptTemplate, Turn
    from .weights.download import download_file

register_models()
register_loaders()

__version__ = '0.2.0'
__all__ = [
    'ChatSession',
    'Engine',
    'EngineWorker',
    'PromptTemplate',
    'Turn',
    'convert',
    'datasets',
    'download_file',
    'engine',
    'get_model',
    'inference_model',
    'load_image',
    'models',
    'nano',
    'read_image',
]
# name: the module that has it; convert is a package
_LAZY = {
    'ChatSession': 'chat.session',
    'Engine': 'generation.engine',
    'EngineWorker': 'generation.worker',
    'PromptTemplate': 'prompts',
    'Turn': 'prompts',
    'download_file': 'weights.download',
    'load_image': 'images.read',
    'read_image': 'images.read',
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = importlib.import_module(f'{__name__}.{_LAZY[name]}')
        return getattr(module, name)
    if name == 'convert':
        return importlib.import_module(f'{__name__}.convert')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
