# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The folder of ``Blip2ForConditionalGeneration``: names and settings.

Export and import share them.
"""

from typing import Any

from ..models import EVAViT, QFormer
from ..weights.layouts import to_layout
from .export_sources import EmptyModel, Parts, Tensors
from .model_shapes import module_shapes

LLM_PREFIX = 'language_model.'
HEAD_NAMES = {f'head.layers.0.{x}' for x in ('weight', 'bias')}
# Settings for which our architecture has only one value. The eps is that of
# the blocks; transformers gives ln_vision the same, where ours has 1e-5.
VISION = dict(hidden_act='gelu', layer_norm_eps=1e-6, qkv_bias=True)
Q_FORMER = dict(hidden_act='gelu', layer_norm_eps=1e-12)


class Blip2Format:
    """``Blip2ForConditionalGeneration``: EVA-ViT, Q-Former, any causal LM."""

    class_name = 'Blip2ForConditionalGeneration'
    parts: tuple[type, ...] = (EVAViT, QFormer)
    # transformers keeps them in fp32
    fp32_prefixes: tuple[str, ...] = ('qformer.', 'query_tokens')

    def refuse(self, model: EmptyModel) -> None:
        """Refuse a model that the class cannot represent.

        Raises:
            ValueError: Its head has several layers, or position biases.
        """
        if getattr(model.head, 'position_bias', None) is not None:
            raise ValueError(
                f'the head has position_bias=True, but {self.class_name} has '
                'one bias for all image tokens; train with '
                'position_bias=False, or serve this model with minigpt4 '
                'itself.'
            )
        names = set(module_shapes(model.head, 'head.'))
        if names - {'head.prefix'} != HEAD_NAMES:
            raise ValueError(
                f'the head has several layers, but {self.class_name} has '
                'room for one; serve this model with minigpt4 itself.'
            )

    def tensors(self, model: EmptyModel, parts: Parts) -> Tensors:
        """Rename all tensors as the class has them."""
        head = {n: t for n, t in parts.head.items() if n in HEAD_NAMES}
        return {
            **to_layout('backbone', 'huggingface', parts.backbone),
            **to_layout('neck', 'huggingface', parts.neck),
            **to_layout('head', 'huggingface', head),
            **{LLM_PREFIX + name: t for name, t in parts.llm.items()},
        }

    def config(
        self,
        model: EmptyModel,
        text_config: dict[str, Any],
        image_token_id: int,
    ) -> dict[str, Any]:
        """Return the ``config.json`` of a folder, but for its dtype.

        Args:
            model: The model.
            text_config: ``config.json`` of the LLM, which is not changed.
            image_token_id: Token id that stands for images.
        """
        backbone, neck = model.backbone, model.neck
        block: Any = backbone.blocks[0]
        layer: Any = neck.layers[0]
        has_cross = [x.cross_attention is not None for x in neck.layers]
        return dict(
            model_type='blip-2',
            architectures=[self.class_name],
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
