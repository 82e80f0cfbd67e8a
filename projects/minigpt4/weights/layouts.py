# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The names of our tensors in the files of other projects.

A layout says for each of our names what it is called there; the way back
follows from that, since the names wanted are always known.

Source: MiniGPT-4 @ d94738a and LAVIS (``official``), MMPretrain 1.2.0
(``mmpretrain``), ``Blip2ForConditionalGeneration`` of transformers
(``huggingface``).
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

import torch
from torch import Tensor

from .read import LazyTensor
from .state_dicts import match_names

PARTS = ('backbone', 'neck', 'head')
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
# in front of all names of a part, where a file holds a whole model
_PREFIXES = {
    ('backbone', 'official'): ('', 'visual_encoder.'),
    ('backbone', 'mmpretrain'): ('', 'vision_encoder.', 'backbone.'),
}
# the thirds of a bias of query, key and value that are kept on their own
_THIRDS = {'q_bias': 0, 'v_bias': 2}

_BEYOND = 'a layer beyond those of this architecture'
# why a tensor that is not wanted stands in a file; the first match counts
_REASONS = (
    (r'position_ids$|inv_freq$', 'a buffer, not a weight'),
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
        'the LLM, which lies in a folder of its own',
    ),
    (
        r'(Qformer|q_former)\.cls\.|(word|position)_embeddings\.'
        r'|layer\.\d+\.(intermediate|output)\.',
        "the Q-Former's text path; MiniGPT-4 gives it no text",
    ),
    (r'(blocks|layers?)\.\d+\.', _BEYOND),
    (
        r'(^|\.)(norm|fc_norm|ln_f|ln1|head|post_layernorm)\.',
        'a final norm or head, which the backbone does not use',
    ),
    (r'^llm_fingerprint$', 'the fingerprint of the LLM'),
)
_OWNED = {
    'backbone': r'^(visual_encoder|vision_encoder|vision_model\.e)',
    'neck': r'^(ln_vision|query_tokens|Qformer|q_former|qformer'
    r'|vision_model\.post)',
    'head': r'^(head\.layers|llama_proj)',
}


@dataclass
class KeyReport:
    """What became of the names of a file.

    Attributes:
        layout: The layout that was found.
        matched: Our names that the file has.
        left_over: Names in the file that are not wanted, with the reason.
        missing: Our names that it lacks.
        misshaped: Our names whose shape differs, with both shapes.
        allowed: Patterns of our names that may be missing or misshaped.
        notes: Further sentences for the reader.
    """

    layout: str
    matched: list[str] = field(default_factory=list)
    left_over: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misshaped: dict[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def check(
        self,
        source: object,
        what: str,
        advice: str = 'is it the checkpoint of this architecture?',
    ) -> None:
        """Refuse a file that does not fit.

        Args:
            source: The file, for the error.
            what: What it was read for, for the error.
            advice: What to do, for the error.

        Raises:
            ValueError: A tensor is missing or misshaped and not allowed.
        """
        total = len(self.matched) + len(self.missing) + len(self.misshaped)
        for problem, names in (
            ('lacks', self.missing),
            ('has misshaped', [*self.misshaped]),
        ):
            refused = [
                name
                for name in names
                if not any(fnmatch(name, p) for p in self.allowed)
            ]
            if refused:
                first = refused[0]
                shapes = self.misshaped.get(first, '')
                raise ValueError(
                    f'{source} {problem} {len(refused)} of the {total} '
                    f'tensors of {what}, e.g. {first}'
                    f'{" (" + shapes + ")" if shapes else ""}; {advice}'
                )

    def __str__(self) -> str:
        lines = [f'layout {self.layout}: {len(self.matched)} tensors matched']
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_over.items():
            reasons.setdefault(reason, []).append(name)
        for reason, names in reasons.items():
            lines.append(f'  left over: {_some(names)}: {reason}')
        if self.missing:
            lines.append(f'  missing: {_some(self.missing)}')
        for name, shapes in list(self.misshaped.items())[:5]:
            lines.append(f'  misshaped: {name}: {shapes}')
        lines += [f'  {note}' for note in self.notes]
        return '\n'.join(lines)


def _some(names: list[str]) -> str:
    shown = ', '.join(names[:3]) + (' ...' if len(names) > 3 else '')
    return f'{len(names)} ({shown})'


def _theirs(part: str, layout: str, name: str) -> str:
    """What one of our names is called in a layout."""
    for ours, theirs in _RULES[part, layout]:
        name = re.sub(ours, theirs, name)
    return name


def to_layout(
    part: str, layout: str, tensors: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """Our tensors under the names of another project.

    Args:
        part: ``'backbone'``, ``'neck'`` or ``'head'``.
        layout: One of ``LAYOUTS``.
        tensors: Tensors by our names. Names that the layout does not know
            (the fingerprint) are kept.
    """
    out = {}
    for name, tensor in tensors.items():
        theirs = _theirs(part, layout, name)
        if layout == 'huggingface' and name.endswith('q_bias'):
            value = tensors[name.removesuffix('q_bias') + 'v_bias']
            out[theirs] = _joined_bias(tensor, value)
        elif layout != 'huggingface' or not name.endswith('v_bias'):
            out[theirs] = tensor
    return out


def from_layout(
    part: str,
    tensors: Mapping[str, LazyTensor],
    wanted: Mapping[str, tuple[int, ...]],
    allow: Iterable[str] = (),
) -> tuple[dict[str, LazyTensor], KeyReport]:
    """The tensors of a file under our names, whatever its layout is.

    Args:
        part: ``'backbone'``, ``'neck'`` or ``'head'``.
        tensors: Tensors by their names in the file.
        wanted: Shapes by our names.
        allow: Patterns of our names that :meth:`KeyReport.check` lets pass.

    Returns:
        What is wanted and there, and the report; nothing is refused yet but
        ambiguous names.

    Raises:
        ValueError: A name is there twice, with and without a prefix of a
            wrapping module, or there are two heads.
    """
    candidates = [
        (kind, {ours: prefix + _theirs(part, kind, ours) for ours in wanted})
        for kind in LAYOUTS
        for prefix in _PREFIXES.get((part, kind), ('',))
    ]
    known = {name for _, names in candidates for name in names.values()}
    bare = {
        name: theirs
        for theirs, name in match_names(tensors, known, 'the file').items()
    }
    tensors = {bare.get(name, name): t for name, t in tensors.items()}
    if part == 'head':
        _refuse_two_heads(tensors, wanted)
    best: dict[str, str] = {}
    layout = LAYOUTS[0]
    hits = -1
    for candidate, names in candidates:
        if part == 'neck' and candidate == 'huggingface':
            names = _instruct_blip_names(names, tensors)
        found = sum(name in tensors for name in names.values())
        if found > hits:
            best, layout, hits = names, candidate, found
    report = KeyReport(layout, allowed=tuple(allow))
    out = {}
    for ours, theirs in best.items():
        tensor = tensors.get(theirs)
        if tensor is None:
            report.missing.append(ours)
            continue
        third = _THIRDS.get(ours.rpartition('.')[2])
        if layout == 'huggingface' and third is not None:
            tensor = _bias_third(theirs, tensor, third)
        if tensor.shape != tuple(wanted[ours]):
            report.misshaped[ours] = (
                f'{tensor.shape} instead of {tuple(wanted[ours])}'
            )
            continue
        if not tensor.dtype.is_floating_point:
            report.misshaped[ours] = (
                f'{str(tensor.dtype).removeprefix("torch.")} instead of '
                'floating-point numbers'
            )
            continue
        out[ours] = tensor
        report.matched.append(ours)
    used = set(best.values())
    for name in tensors:
        if name in used:
            continue
        reason = _reason(part, name)
        if part == 'neck' and reason == _BEYOND:
            # BLIP-2 cuts the ViT, never the Q-Former: another architecture
            report.misshaped[name] = reason
        else:
            report.left_over[name] = reason
    return out, report


def _refuse_two_heads(names: Container[str], wanted: Iterable[str]) -> None:
    for ours in wanted:
        theirs = _theirs('head', 'official', ours)
        if theirs != ours and ours in names and theirs in names:
            raise ValueError(
                f'the file holds two heads, {ours} and {theirs}; save the '
                'one that is meant.'
            )


def _instruct_blip_names(
    names: dict[str, str], tensors: Mapping[str, LazyTensor]
) -> dict[str, str]:
    """InstructBLIP keeps the queries' norm among its text embeddings."""
    blip2, instruct = 'qformer.layernorm.', 'qformer.embeddings.layernorm.'
    if f'{instruct}weight' not in tensors:
        return names
    return {
        ours: theirs.replace(blip2, instruct) for ours, theirs in names.items()
    }


def _reason(part: str, name: str) -> str:
    for other in PARTS:
        if other != part and re.match(_OWNED[other], name):
            return f'of the {other}'
    for pattern, reason in _REASONS:
        if re.search(pattern, name):
            return reason
    return 'unknown to this architecture'


def _joined_bias(query: LazyTensor, value: LazyTensor) -> LazyTensor:
    """Biases of query and value, with the zeros of the key between."""

    def read() -> Tensor:
        q = query.read()
        return torch.cat((q, torch.zeros_like(q), value.read()))

    return LazyTensor((3 * query.shape[0],), query.dtype, read)


def _bias_third(name: str, bias: LazyTensor, third: int) -> LazyTensor:
    """Its query's or value's part; the key's has to be zero."""

    def read() -> Tensor:
        parts = bias.read().chunk(3)
        if parts[1].any():
            raise ValueError(
                f'{name} has a bias for the key that is not zero, which '
                'EVA-ViT has no place for; is it the checkpoint of this '
                'architecture?'
            )
        return parts[third].clone()  # a view would save all three

    return LazyTensor((bias.shape[0] // 3,), bias.dtype, read)
