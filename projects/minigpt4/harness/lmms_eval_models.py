# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What lmms-eval finds: the entry point of the group ``lmms_eval.models``.

Only lmms-eval imports this module. The classes of the models are imported
when one of them is used.
"""

from lmms_eval.models.registry_v2 import ModelManifest

_MODULE = 'minigpt4.harness.lmms_eval'

MODELS = ModelManifest(
    model_id='minigpt4',
    simple_class_path=f'{_MODULE}.SimpleModel',
    chat_class_path=f'{_MODULE}.ChatModel',
)
