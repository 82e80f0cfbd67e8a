# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Translate tensor names between our files and those of other projects.

A layout maps each of our names to the name in the other project. The inverse
needs no rules of its own, since our expected names are always known.

Source: MiniGPT-4 @ d94738a and LAVIS (``official``), MMPretrain 1.2.0
(``mmpretrain``), ``Blip2ForConditionalGeneration`` of transformers
(``huggingface``). The official layout of EfficientNet-Lite is that of
efficientnet-lite-pytorch 0.1.0.
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping

import torch
from torch import Tensor

from .key_report import KeyReport
from .read import LazyTensor
from .state_dicts import match_names

COMPONENTS = ('backbone', 'neck', 'head')
LAYOUTS = ('official', 'ours', 'mmpretrain', 'huggingface')

# (our name, theirs): regular expressions, used one after the other
_Rules = tuple[tuple[str, str], ...]
_Q_FORMER: _Rules = (
    (r'^norm\.', 'Qformer.bert.embeddings.LayerNorm.'),
    (r'^layers\.', 'Qformer.bert.encoder.layer.'),
    (r'\.cross_attention\.', '.crossattention.'),
    (r'attention\.(query|key|value)\.', r'attention.self.\1.'),
    (r'attention\.out\.', 'attention.output.dense.'),
    (r'attention\.norm\.', 'attention.output.LayerNorm.'),
    (r'\.mlp\.fc1\.', '.intermediate_query.dense.'),
    (r'\.mlp\.fc2\.', '.output_query.dense.'),
    (r'\.mlp\.norm\.', '.output_query.LayerNorm.'),
)
_RULES: dict[tuple[str, str], _Rules] = {
    ('backbone', 'ours'): (),
    ('backbone', 'official'): (),
    ('backbone', 'mmpretrain'): (
        (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
        (r'^blocks\.', 'layers.'),
        (r'\.norm([12])\.', r'.ln\1.'),
        (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
        (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    ),
    ('backbone', 'huggingface'): (
        (r'^cls_token$', 'embeddings.class_embedding'),
        (r'^pos_embed$', 'embeddings.position_embedding'),
        (r'^patch_embed\.proj\.', 'embeddings.patch_embedding.'),
        (r'^blocks\.', 'encoder.layers.'),
        (r'\.norm([12])\.', r'.layer_norm\1.'),
        (r'\.attn\.proj\.', '.self_attn.projection.'),
        (r'\.attn\.qkv\.', '.self_attn.qkv.'),
        (r'\.attn\.[qv]_bias$', '.self_attn.qkv.bias'),
        (r'^', 'vision_model.'),
    ),
    # efficientnet-lite-pytorch numbers the norms in the order of their use;
    # in a block without expansion the first number is missing
    ('efficientnet_lite', 'official'): (
        (r'^stem\.conv\.', '_conv_stem.'),
        (r'^stem\.norm\.', '_bn0.'),
        (r'^head\.conv\.', '_conv_head.'),
        (r'^head\.norm\.', '_bn1.'),
        (r'^blocks\.', '_blocks.'),
        (r'\.(expand|depthwise|project)\.conv\.', r'._\1_conv.'),
        (r'\.expand\.norm\.', '._bn0.'),
        (r'\.depthwise\.norm\.', '._bn1.'),
        (r'\.project\.norm\.', '._bn2.'),
    ),
    ('efficientnet_lite', 'ours'): (),
    ('efficientnet_lite', 'huggingface'): (
        (r'^stem\.conv\.', 'embeddings.convolution.'),
        (r'^stem\.norm\.', 'embeddings.batchnorm.'),
        (r'^head\.conv\.', 'encoder.top_conv.'),
        (r'^head\.norm\.', 'encoder.top_bn.'),
        (r'^blocks\.', 'encoder.blocks.'),
        (r'\.expand\.conv\.', '.expansion.expand_conv.'),
        (r'\.expand\.norm\.', '.expansion.expand_bn.'),
        (r'\.depthwise\.conv\.', '.depthwise_conv.depthwise_conv.'),
        (r'\.depthwise\.norm\.', '.depthwise_conv.depthwise_norm.'),
        (r'\.project\.conv\.', '.projection.project_conv.'),
        (r'\.project\.norm\.', '.projection.project_bn.'),
    ),
    # any class of MMPretrain, with the names that it has there
    ('mmpretrain_backbone', 'mmpretrain'): (),
    ('neck', 'ours'): (),
    ('neck', 'official'): _Q_FORMER,
    ('neck', 'mmpretrain'): (*_Q_FORMER, (r'^Qformer\.', 'q_former.')),
    ('neck', 'huggingface'): (
        *_Q_FORMER,
        (r'^ln_vision\.', 'vision_model.post_layernorm.'),
        (r'^Qformer\.bert\.embeddings\.LayerNorm\.', 'qformer.layernorm.'),
        (r'^Qformer\.bert\.', 'qformer.'),
        (r'attention\.self\.', 'attention.attention.'),
    ),
    ('head', 'ours'): (),
    ('head', 'official'): ((r'^head\.layers\.0\.', 'llama_proj.'),),
    ('head', 'mmpretrain'): ((r'^head\.layers\.0\.', 'llama_proj.'),),
    ('head', 'huggingface'): (
        (r'^head\.layers\.0\.', 'language_projection.'),
    ),
}
# prefixes of all names of a component in a file of a complete model
_PREFIXES = {
    ('backbone', 'official'): ('', 'visual_encoder.'),
    ('backbone', 'mmpretrain'): ('', 'vision_encoder.', 'backbone.'),
    ('mmpretrain_backbone', 'mmpretrain'): ('backbone.', ''),
}
# our names for thirds of the joint bias of query, key and value
_BIAS_THIRDS = {'q_bias': 0, 'v_bias': 2}

_EXTRA_LAYER = 'a layer beyond those of this architecture'
# pattern of a name in a file: why it is not used; the first match counts
_REASONS = (
    (
        r'position_ids$|inv_freq$|num_batches_tracked$',
        'a buffer, not a weight',
    ),
    (
        r'^(t5_proj|opt_proj|language_projection)\.',
        'a projection to the LLM of BLIP-2',
    ),
    (
        r'^(vision_proj|text_proj|itm_head|temp$|vision_projection'
        r'|text_projection)',
        "a head of BLIP-2's own pretraining",
    ),
    (
        r'^(t5_model|opt_model|llm_model|llama_model|language_model)\.',
        'the LLM, which has a folder of its own',
    ),
    (
        r'(Qformer|q_former)\.cls\.|(word|position)_embeddings\.'
        r'|layer\.\d+\.(intermediate|output)\.',
        "the Q-Former's text path; MiniGPT-4 gives it no text",
    ),
    (r'(blocks|layers?)\.\d+\.', _EXTRA_LAYER),
    (
        r'(^|\.)(norm|fc_norm|ln_f|ln1|head|post_layernorm|_fc)\.',
        'a final norm or head, which the backbone does not use',
    ),
    (r'^llm_fingerprint$', 'the fingerprint of the LLM'),
)
_OWN_NAMES = {
    'backbone': r'^(visual_encoder|vision_encoder|vision_model\.e)',
    'neck': r'^(ln_vision|query_tokens|Qformer|q_former|qformer'
    r'|vision_model\.post)',
    'head': r'^(head\.layers|llama_proj)',
}


def _file_name(component: str, layout: str, name: str) -> str:
    """Translate one of our names to a layout, without a prefix."""
    for ours, theirs in _RULES[component, layout]:
        name = re.sub(ours, theirs, name)
    return name


def to_layout(
    component: str, layout: str, tensors: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """Rename our tensors to the layout of another project.

    Args:
        component: ``'backbone'``, ``'neck'`` or ``'head'``.
        layout: One of ``LAYOUTS``.
        tensors: Tensors by our names. Names that the layout does not have
            (the fingerprint) are kept.
    """
    renamed = {}
    for name, tensor in tensors.items():
        file_name = _file_name(component, layout, name)
        if layout == 'huggingface' and name.endswith('q_bias'):
            value = tensors[name.removesuffix('q_bias') + 'v_bias']
            renamed[file_name] = _join_bias(tensor, value)
        elif layout != 'huggingface' or not name.endswith('v_bias'):
            renamed[file_name] = tensor
    return renamed


def from_layout(
    component: str,
    tensors: Mapping[str, LazyTensor],
    expected: Mapping[str, tuple[int, ...]],
    allow: Iterable[str] = (),
    adapt: Mapping[str, Callable[[LazyTensor], LazyTensor]] | None = None,
) -> tuple[dict[str, LazyTensor], KeyReport]:
    """Detect the layout of a file and rename its tensors to our names.

    Args:
        component: ``'backbone'``, ``'neck'`` or ``'head'`` of MiniGPT-4, or
            another backbone, ``'efficientnet_lite'`` or
            ``'mmpretrain_backbone'``.
        tensors: Tensors by their names in the file.
        expected: Shapes by our names.
        allow: Patterns of our names that :meth:`KeyReport.check` accepts as
            missing or misshaped.
        adapt: Functions that change tensors of the file before their shapes
            are compared, by our names.

    Returns:
        The expected tensors that the file has, and the report. Only
        ambiguous names are refused here; see :meth:`KeyReport.check`.

    Raises:
        ValueError: The file has a name twice, with and without a prefix of a
            wrapping module, or two heads.
    """
    candidates = [
        (
            layout,
            {
                name: prefix + _file_name(component, layout, name)
                for name in expected
            },
        )
        for layout in LAYOUTS
        if (component, layout) in _RULES
        for prefix in _PREFIXES.get((component, layout), ('',))
    ]
    known = {name for _, names in candidates for name in names.values()}
    bare_names = {
        name: bare
        for bare, name in match_names(tensors, known, 'the file').items()
    }
    tensors = {bare_names.get(name, name): t for name, t in tensors.items()}
    if component == 'head':
        _refuse_two_heads(tensors, expected)
    best_names: dict[str, str] = {}
    layout = LAYOUTS[0]
    most_hits = -1
    for candidate, names in candidates:
        if component == 'neck' and candidate == 'huggingface':
            names = _instruct_blip_names(names, tensors)
        hits = sum(name in tensors for name in names.values())
        if hits > most_hits:
            best_names, layout, most_hits = names, candidate, hits
    report = KeyReport(layout, allowed=tuple(allow))
    renamed = {}
    for name, file_name in best_names.items():
        tensor = tensors.get(file_name)
        if tensor is None:
            report.missing.append(name)
            continue
        third = _BIAS_THIRDS.get(name.rpartition('.')[2])
        if layout == 'huggingface' and third is not None:
            tensor = _split_bias(file_name, tensor, third)
        if adapt is not None and name in adapt:
            tensor = adapt[name](tensor)
        if tensor.shape != tuple(expected[name]):
            report.misshaped[name] = (
                f'{tensor.shape} instead of {tuple(expected[name])}'
            )
            continue
        if not tensor.dtype.is_floating_point:
            report.misshaped[name] = (
                f'{str(tensor.dtype).removeprefix("torch.")} instead of '
                'floating-point numbers'
            )
            continue
        renamed[name] = tensor
        report.matched.append(name)
    used = set(best_names.values())
    for name in tensors:
        if name in used:
            continue
        reason = _reason_unused(component, name)
        if component == 'neck' and reason == _EXTRA_LAYER:
            # BLIP-2 truncates the ViT but never the Q-Former: such a file is
            # of another architecture
            report.misshaped[name] = reason
        else:
            report.left_over[name] = reason
    return renamed, report


def _refuse_two_heads(names: Container[str], expected: Iterable[str]) -> None:
    for name in expected:
        official = _file_name('head', 'official', name)
        if official != name and name in names and official in names:
            raise ValueError(
                f'the file holds two heads, {name} and {official}; save the '
                'one that is meant.'
            )


def _instruct_blip_names(
    names: dict[str, str], tensors: Mapping[str, LazyTensor]
) -> dict[str, str]:
    """Adapt names to InstructBLIP, which has the query norm elsewhere.

    Args:
        names: Our names: names in a BLIP-2 folder.
        tensors: The tensors of the file.
    """
    blip2, instruct_blip = (
        'qformer.layernorm.',
        'qformer.embeddings.layernorm.',
    )
    if f'{instruct_blip}weight' not in tensors:
        return names
    return {
        ours: theirs.replace(blip2, instruct_blip)
        for ours, theirs in names.items()
    }


def _reason_unused(component: str, name: str) -> str:
    """Explain why a tensor of a file is not used."""
    for other in COMPONENTS:
        if other != component and re.match(_OWN_NAMES[other], name):
            return f'of the {other}'
    for pattern, reason in _REASONS:
        if re.search(pattern, name):
            return reason
    return 'unknown to this architecture'


def _join_bias(query: LazyTensor, value: LazyTensor) -> LazyTensor:
    """Join the biases of query and value, with zeros for the key."""

    def read() -> Tensor:
        q = query.read()
        return torch.cat((q, torch.zeros_like(q), value.read()))

    return LazyTensor((3 * query.shape[0],), query.dtype, read)


def _split_bias(name: str, bias: LazyTensor, third: int) -> LazyTensor:
    """Take the query's or value's third of a bias.

    Args:
        name: Its name in the file, for the error.
        bias: ``(3 * width,)``, of query, key and value; that of the key must
            be zero, which is checked when the tensor is read.
        third: 0 for the query, 2 for the value.
    """

    def read() -> Tensor:
        thirds = bias.read().chunk(3)
        if thirds[1].any():
            raise ValueError(
                f'{name} has a bias for the key that is not zero, which '
                'EVA-ViT has no place for; is it the checkpoint of this '
                'architecture?'
            )
        return thirds[third].clone()  # a view would save all three

    return LazyTensor((bias.shape[0] // 3,), bias.dtype, read)
