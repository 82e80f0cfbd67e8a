# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Convert weight files between our layout and those of other projects."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from mmengine.config import Config

from ..llm.fingerprint import (
    FINGERPRINT,
    decode_fingerprint,
    encode_fingerprint,
    folder_fingerprint,
)
from ..utils.atomic import replacing
from ..weights.key_report import KeyReport
from ..weights.layouts import COMPONENTS, from_layout, to_layout
from ..weights.read import LazyTensor, open_tensors
from ..weights.state_dicts import as_weight, match_names
from ..weights.write import write_pickle, write_safetensors
from .model_shapes import Shapes, expected_shapes, load_config

DEFAULT_MODEL = 'minigpt-4_vicuna-7b_caption'
# the file of each component in one of our folders
FILES = dict(
    backbone='eva_vit.safetensors',
    neck='q_former.safetensors',
    head='minigpt4.pth',
)
SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')
_HEAD_WEIGHT = 'head.layers.0.weight'
# (width of the LLM, width of the neck) of the published projections
_PUBLISHED_HEADS: dict[tuple[int, ...], str] = {
    (4096, 768): 'Vicuna-7B (or another LLM of width 4096)',
    (5120, 768): 'Vicuna-13B',
    (4096, 5632): 'LLaMA-2-7B without Q-Former',
}


def convert(
    source: 'str | Path',
    out: 'str | Path',
    to: str = 'ours',
    model: 'str | Config | None' = None,
    dtype: str | None = None,
    allow: Iterable[str] = (),
    llm: 'str | Path | None' = None,
) -> dict[str, KeyReport]:
    """Convert a weight file to the layout of another project.

    The components and the layout of the file are detected from its tensor
    names. Only one tensor is in memory at a time.

    Args:
        source: The file, with one or more of the backbone, the neck and the
            head.
        out: The file to write, of one of ``SUFFIXES``. For several
            components, a folder for one file each.
        to: ``'ours'``, ``'official'`` or ``'mmpretrain'``.
        model: The model whose names and shapes are expected; by default
            ``'minigpt-4_vicuna-7b_caption'``, and any published projection.
        dtype: Type of the floating-point tensors; by default the file's.
        allow: Patterns of our names that may be missing or misshaped.
        llm: Folder of the LLM that a head without a fingerprint was trained
            with, whose fingerprint is added.

    Returns:
        A report for each component of the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no file of weights, or does not fit the model.
    """
    out = real_output(out)
    tensors = open_tensors(source)
    found, reports = read_components(source, tensors, model, allow)
    if llm is not None:
        _add_fingerprint(found, source, llm, model or DEFAULT_MODEL)
    if (len(found) == 1) != (out.suffix in SUFFIXES):
        raise ValueError(
            f'{source} holds {" and ".join(found)}; name '
            + (
                f'a file ({", ".join(SUFFIXES)}) in place of {out}.'
                if len(found) == 1
                else f'a folder in place of the file {out}.'
            )
        )
    used = set().union(
        *(
            {name for name in tensors if name not in report.left_over}
            for report in reports.values()
        )
    )
    for report in reports.values():  # report what no component uses
        report.left_over = {
            name: reason
            for name, reason in report.left_over.items()
            if name not in used
        }
    torch_type = None if dtype is None else getattr(torch, dtype)
    found = {
        component: {name: t.to(torch_type, name) for name, t in own.items()}
        for component, own in found.items()
    }
    if len(found) == 1:
        ((component, own),) = found.items()
        write_component(out, component, own, to)
    else:
        with replacing(out) as folder:
            folder.mkdir()
            for component, own in found.items():
                name = FILES[component]
                if to != 'ours':
                    name = Path(name).with_suffix('.pth').name
                write_component(folder / name, component, own, to)
    return reports


def real_output(out: 'str | Path') -> Path:
    """Resolve the path of an output through symbolic links.

    So a link stays a link, and its target is replaced.
    """
    return Path(os.path.realpath(Path(out).expanduser()))


def read_components(
    source: object,
    tensors: Mapping[str, LazyTensor],
    model: 'str | Config | None' = None,
    allow: Iterable[str] = (),
) -> tuple[dict[str, dict[str, LazyTensor]], dict[str, KeyReport]]:
    """Find the components in the tensors of a file.

    Args:
        source: The file, for errors.
        tensors: Its tensors by their names there.
        model: As for :func:`convert`.
        allow: As for :func:`convert`.

    Returns:
        Tensors by our names, and a report, for each component.

    Raises:
        ValueError: There is no component, or one does not fit the model.
    """
    shapes = expected_shapes(model or DEFAULT_MODEL)
    if model is None:
        shapes['head'] = _published_head_shapes(tensors, shapes['head'])
    found, reports = {}, {}
    for component in COMPONENTS:
        expected = shapes[component]
        own, report = from_layout(component, tensors, expected, allow)
        hits = len(expected) - len(report.missing)
        # components may share a few names: eva_vit_g.pth has a norm.weight
        if 2 * hits < min(len(expected), len(tensors)) or not hits:
            continue
        report.check(
            source,
            f'the {component} of {model or DEFAULT_MODEL}',
            'name the model that it belongs to (--model) or what may differ '
            '(--allow)',
        )
        if component == 'head':
            report.notes.append(_describe_head(own))
            for name, lazy in own.items():
                as_weight(name, lazy.read(), source)
            matches = match_names(tensors, {FINGERPRINT}, source)
            if matches:
                own[FINGERPRINT] = tensors[matches[FINGERPRINT]]
                decode_fingerprint(own[FINGERPRINT].read(), source)
                report.matched.append(FINGERPRINT)
                del report.left_over[matches[FINGERPRINT]]
        found[component], reports[component] = own, report
    if not found:
        names = ', '.join(list(tensors)[:3]) or 'nothing'
        raise ValueError(
            f'{source} holds no backbone, neck or head of MiniGPT-4 but '
            f'{names}{" ..." if len(tensors) > 3 else ""}; give one of the '
            'files that docs/weights.md lists.'
        )
    return found, reports


def _published_head_shapes(
    tensors: Mapping[str, LazyTensor], default: Shapes
) -> Shapes:
    """Return the shapes of the head in a file, if such a head was published.

    Args:
        tensors: The tensors of the file.
        default: The result for another head.
    """
    expected = {_HEAD_WEIGHT, 'llama_proj.weight'}
    names = match_names(tensors, expected, 'the file')
    for name in names.values():
        shape = tensors[name].shape
        if shape in _PUBLISHED_HEADS:
            return {_HEAD_WEIGHT: shape, 'head.layers.0.bias': shape[:1]}
    return default


def _add_fingerprint(
    found: dict[str, dict[str, LazyTensor]],
    source: object,
    llm: 'str | Path',
    model: 'str | Config',
) -> None:
    """Add the fingerprint of an LLM to a head, in place.

    Raises:
        ValueError: There is no head, or it has a fingerprint already.
    """
    if 'head' not in found:
        raise ValueError(
            f'{source} holds no head, so it needs no fingerprint of an LLM; '
            'omit --llm.'
        )
    if FINGERPRINT in found['head']:
        raise ValueError(
            f'{source} has a fingerprint already, which --llm would '
            'overwrite; omit --llm.'
        )
    template = load_config(model).model.get('prompt_template', 'vicuna_v0')
    fingerprint = dict(folder_fingerprint(llm), template=template)
    found['head'][FINGERPRINT] = LazyTensor.of(encode_fingerprint(fingerprint))


def _describe_head(head: Mapping[str, LazyTensor]) -> str:
    """Describe a projection by its widths and the LLM it belongs to."""
    if _HEAD_WEIGHT not in head:
        return 'the projection was allowed to be missing'
    llm_width, neck_width = shape = head[_HEAD_WEIGHT].shape
    llm = _PUBLISHED_HEADS.get(shape, 'an LLM of that width')
    return f'a projection {neck_width} -> {llm_width}, for {llm}'


def write_component(
    path: Path, component: str, tensors: Mapping[str, LazyTensor], to: str
) -> None:
    """Write the file of one component, completely or not at all.

    Args:
        path: The file.
        component: ``'backbone'``, ``'neck'`` or ``'head'``.
        tensors: Its tensors by our names.
        to: The layout.

    Raises:
        ValueError: The layout has no names for the tensors.
        OSError: It cannot be written.
    """
    if to != 'ours' and 'head.layers.2.weight' in tensors:
        raise ValueError(
            f'the head has several layers, for which the {to} layout has no '
            'names; it can only be written in our layout (--to ours).'
        )
    renamed = to_layout(component, to, tensors)
    if path.suffix == '.safetensors':
        write_safetensors(path, renamed, progress=path.name)
        return
    key = None  # eva_vit_g.pth is a plain state dict
    if to == 'official' and component != 'backbone':
        key = 'model'
    elif to == 'mmpretrain' or component == 'head':
        key = 'state_dict'
    write_pickle(path, renamed, key, progress=path.name)
