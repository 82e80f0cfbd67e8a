# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Child registries of scope ``minigpt4``; their parents are mmengine's roots.

Configs name our classes as objects, or as ``'minigpt4.NAME'``.
"""

from mmengine import registry as root

MODELS = root.Registry('model', parent=root.MODELS, scope='minigpt4')
DATASETS = root.Registry('dataset', parent=root.DATASETS, scope='minigpt4')
TRANSFORMS = root.Registry(
    'transform', parent=root.TRANSFORMS, scope='minigpt4'
)
DATA_SAMPLERS = root.Registry(
    'data sampler', parent=root.DATA_SAMPLERS, scope='minigpt4'
)
HOOKS = root.Registry('hook', parent=root.HOOKS, scope='minigpt4')
LOOPS = root.Registry('loop', parent=root.LOOPS, scope='minigpt4')
METRICS = root.Registry('metric', parent=root.METRICS, scope='minigpt4')
PARAM_SCHEDULERS = root.Registry(
    'parameter scheduler', parent=root.PARAM_SCHEDULERS, scope='minigpt4'
)
MODEL_WRAPPERS = root.Registry(
    'model wrapper', parent=root.MODEL_WRAPPERS, scope='minigpt4'
)
OPTIM_WRAPPER_CONSTRUCTORS = root.Registry(
    'optimizer wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope='minigpt4',
)
