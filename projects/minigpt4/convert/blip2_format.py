# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The folder of ``Blip2ForConditionalGeneration``: names and settings.

Export and import share them.
"""

from typing import Any

from ..models import EVAViT, QFormer
from ..weights.read import LazyTensor

LLM_FOLDER = 'llm'  # in both folders: the LLM's small files
# in the Hugging Face folder: what its classes cannot store
EXTRA_FILE = 'minigpt4.json'
LLM_PREFIX = 'language_model.'
HEAD_NAMES = {f'head.layers.0.{x}' for x in ('weight', 'bias')}
# Settings for which our architecture has only one value. The eps is that of
# the blocks; transformers gives ln_vision the same, where ours has 1e-5.
VISION = dict(hidden_act='gelu', layer_norm_eps=1e-6, qkv_bias=True)
Q_FORMER = dict(hidden_act='gelu', layer_norm_eps=1e-12)
Tensors = dict[str, LazyTensor]


def is_causal(model_type: Any) -> bool:
    """Whether transformers has a causal LM of a ``model_type``."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return model_type in known and model_type in CONFIG_MAPPING


def blip2_config(
    backbone: EVAViT,
    neck: QFormer,
    text_config: dict[str, Any],
    image_token_id: int,
    dtype: str | None,
) -> dict[str, Any]:
    """Return the ``config.json`` of a folder.

    Args:
        backbone: The vision encoder.
        neck: The Q-Former.
        text_config: ``config.json`` of the LLM, which is not changed.
        image_token_id: Token id that stands for images.
        dtype: Name of the weights' type; None is the LLM's.
    """
    block: Any = backbone.blocks[0]
    layer: Any = neck.layers[0]
    has_cross = [x.cross_attention is not None for x in neck.layers]
    llm_dtype = text_config.get('dtype') or text_config.get('torch_dtype')
    return dict(
        model_type='blip-2',
        architectures=['Blip2ForConditionalGeneration'],
        torch_dtype=dtype or llm_dtype or 'float32',
        image_token_index=image_token_id,
        num_query_tokens=neck.num_tokens,
        use_decoder_only_language_model=True,
        vision_config=dict(
            model_type='blip_2_vision_model',
            hidden_size=backbone.out_channels,
            intermediate_size=block.mlp.fc1.out_features,
            num_hidden_layers=len(backbone.blocks),
            num_attention_heads=block.attn.num_heads,
            image_size=backbone.img_size,
            patch_size=backbone.patch_embed.proj.kernel_size[0],
            **VISION,
        ),
        qformer_config=dict(
            model_type='blip_2_qformer',
            hidden_size=neck.out_channels,
            intermediate_size=layer.mlp.fc1.out_features,
            num_hidden_layers=len(neck.layers),
            num_attention_heads=layer.attention.num_heads,
            encoder_hidden_size=backbone.out_channels,
            cross_attention_frequency=(
                has_cross.index(True, 1)
                if any(has_cross[1:])
                else len(has_cross)
            ),
            **Q_FORMER,
        ),
        text_config=text_config,
    )
