# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Register the models with vLLM, for exported folders only.

The ``config.json`` of a folder names classes of transformers, of which vLLM
has BLIP-2 itself, with images in another place. So the folder decides: only
one that has the file of our export gets our class. Other BLIP-2 folders are
run as before.
"""

from typing import TYPE_CHECKING

from transformers import PretrainedConfig
from vllm import ModelRegistry
from vllm.model_executor.models.config import (
    MODELS_CONFIG_MAP,
    VerifyAndUpdateConfig,
)
from vllm.transformers_utils.model_arch_config_convertor import (
    MODEL_ARCH_CONFIG_CONVERTORS,
    ModelArchConfigConvertorBase,
)

from .folder import is_exported, read_settings

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

# model_type of config.json: name of the class in models.py
CLASSES = {'blip-2': 'MiniGPT4Blip2', 'fast_vlm': 'MiniGPT4FastVlm'}


class FolderConvertor(ModelArchConfigConvertorBase):
    """Gives an exported folder our class.

    Args:
        hf_config: Its ``config.json``, whose ``architectures`` is changed.
        hf_text_config: The part of the LLM.
        revision: Not used: a folder has none.
    """

    def __init__(
        self,
        hf_config: PretrainedConfig,
        hf_text_config: PretrainedConfig,
        revision: str | None = None,
    ) -> None:
        if is_exported(hf_config.name_or_path):
            hf_config.architectures = [CLASSES[hf_config.model_type]]
        super().__init__(hf_config, hf_text_config, revision)


class FolderDefaults(VerifyAndUpdateConfig):
    """Gives vLLM the settings of an exported folder that it does not read."""

    @staticmethod
    def verify_and_update_model_config(model_config: 'ModelConfig') -> None:
        """Answer greedily by default, as ``do_sample`` of the folder states.

        Raises:
            ValueError: The folder is incomplete.
        """
        settings = read_settings(model_config.model)
        if settings.is_greedy and model_config.generation_config == 'auto':
            model_config.override_generation_config.setdefault(
                'temperature', 0.0
            )

    @staticmethod
    def verify_and_update_config(vllm_config: 'VllmConfig') -> None:
        """Add our rules for answers; see :mod:`.answers`."""
        from .processors import processor_name

        model_config = vllm_config.model_config
        name = processor_name(
            read_settings(model_config.model).stop,
            vllm_config.use_v2_model_runner,
        )
        others = model_config.logits_processors or []
        if name not in others:
            model_config.logits_processors = [*others, name]


def register_models() -> None:
    """Register the models; a second call changes nothing."""
    for model_type, name in CLASSES.items():
        ModelRegistry.register_model(name, f'{__package__}.models:{name}')
        MODEL_ARCH_CONFIG_CONVERTORS[model_type] = FolderConvertor
        MODELS_CONFIG_MAP[name] = FolderDefaults
