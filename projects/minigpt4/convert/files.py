# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of one project to files of another."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from mmengine.config import Config

from ..llm.fingerprint import fingerprint_of
from ..models.checkpoint import (
    FINGERPRINT,
    decode_fingerprint,
    encode_fingerprint,
)
from ..registry import MODELS
from ..utils.atomic import replacing
from ..utils.errors import one_line
from ..weights.hub import check_name, read_config
from ..weights.layouts import PARTS, KeyReport, from_layout, to_layout
from ..weights.read import LazyTensor, open_tensors
from ..weights.state_dicts import as_weight, match_names
from ..weights.write import write_pickle, write_safetensors

DEFAULT_MODEL = 'minigpt-4_vicuna-7b_caption'
# what a folder of ours calls the parts
FILES = dict(
    backbone='eva_vit.safetensors',
    neck='q_former.safetensors',
    head='minigpt4.pth',
)
SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')
_WEIGHT = 'head.layers.0.weight'
# (width of the LLM, width of the neck) of the published projections
_PUBLISHED_HEADS = {
    (4096, 768): 'Vicuna-7B (or another LLM of width 4096)',
    (5120, 768): 'Vicuna-13B',
    (4096, 5632): 'LLaMA-2-7B without Q-Former',
}

Shapes = dict[str, tuple[int, ...]]


def wanted_shapes(model: 'str | Config') -> dict[str, Shapes]:
    """Names and shapes of a model's tensors, part by part; no file is read.

    Args:
        model: A name of the hub, a config or its file.

    Raises:
        ValueError: There is no such model, or its config builds none.
    """
    cfg = load_config(model)
    with model_errors(cfg):
        return _shapes_of(cfg.model)


@contextlib.contextmanager
def model_errors(cfg: Config) -> Iterator[None]:
    """Name a config whose model cannot be built in one sentence.

    Raises:
        ValueError: The body has failed; other errors than ``ValueError`` and
            ``OSError`` are raised as one.
    """
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:  # the parts of a config may be of any kind
        reason = (
            'it has no model'
            if cfg.get('model') is None
            else f'{type(error).__name__}: {one_line(error)}'
        )
        raise ValueError(
            f'the config {cfg.filename or "that was given"} builds no model '
            f'of MiniGPT-4 ({reason}); see configs/minigpt4/ for configs that '
            'do.'
        ) from error


def _shapes_of(cfg: Mapping) -> dict[str, Shapes]:
    with torch.device('meta'):
        parts = {
            part: MODELS.build({**cfg[part], **_no_files(cfg[part])})
            for part in ('backbone', 'neck')
        }
        arch = cfg['decoder'].get('arch')
        if arch is None:
            raise ValueError(
                'the config names no decoder.arch, so the width of its LLM '
                "is unknown; set it to the LLM's Hugging Face config."
            )
        parts['head'] = MODELS.build(
            {
                'in_channels': parts['neck'].out_channels,
                'out_channels': arch['hidden_size'],
                **cfg['head'],
            }
        )
    return {
        part: {
            ('head.' if part == 'head' else '') + name: tuple(tensor.shape)
            for name, tensor in module.state_dict().items()
        }
        for part, module in parts.items()
    }


def _no_files(part: Mapping) -> dict:
    return dict(checkpoint=None) if 'checkpoint' in part else {}


def load_config(model: 'str | Config') -> Config:
    """The config that a name of the hub, a file or a config means.

    Raises:
        ValueError: There is no such model.
    """
    from mmpretrain.apis.model import ModelHub

    if isinstance(model, Config):
        return model
    if str(model).endswith('.py'):
        return read_config(model)
    try:
        check_name(model)
    except ValueError as error:
        raise ValueError(
            f'{model!r} is no model of the hub and no config file (.py): '
            f'{error}'
        ) from error
    return ModelHub.get(model).config


def convert(
    source: 'str | Path',
    out: 'str | Path',
    to: str = 'ours',
    model: 'str | Config | None' = None,
    dtype: str | None = None,
    allow: Iterable[str] = (),
    llm: 'str | Path | None' = None,
) -> dict[str, KeyReport]:
    """Rewrite a file of weights in another project's layout.

    What the file holds and whose layout it has is found out from its names;
    tensors go through memory one by one.

    Args:
        source: The file: of the backbone, the neck or a checkpoint with a
            head, or of several of them.
        out: The file to write, of one of ``SUFFIXES``. With several parts, a
            folder for one file each.
        to: ``'ours'``, ``'official'`` or ``'mmpretrain'``.
        model: The model that it shall fit; by default
            ``'minigpt-4_vicuna-7b_caption'``, and any published projection.
        dtype: Type of the floating-point tensors; by default the file's.
        allow: Patterns of our names that may be missing or misshaped.
        llm: Folder of the LLM that a head without a fingerprint was trained
            with; its fingerprint is added.

    Returns:
        A report for each part that was found.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no file of weights, or does not fit the model.
    """
    out = real_output(out)
    tensors = open_tensors(source)
    found, reports = read_parts(source, tensors, model, allow)
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
    kept = set().union(
        *(
            {n for n in tensors if n not in report.left_over}
            for report in reports.values()
        )
    )
    for report in reports.values():  # what no part wants
        report.left_over = {
            name: reason
            for name, reason in report.left_over.items()
            if name not in kept
        }
    element = None if dtype is None else getattr(torch, dtype)
    found = {
        part: {name: t.to(element, name) for name, t in mine.items()}
        for part, mine in found.items()
    }
    if len(found) == 1:
        ((part, mine),) = found.items()
        write_part(out, part, mine, to)
    else:
        with replacing(out) as folder:
            folder.mkdir()
            for part, mine in found.items():
                name = FILES[part]
                if to != 'ours':
                    name = Path(name).with_suffix('.pth').name
                write_part(folder / name, part, mine, to)
    return reports


def real_output(out: 'str | Path') -> Path:
    """The path that an output's name means, through symbolic links.

    A link stays a link, and what it names is replaced.
    """
    return Path(os.path.realpath(Path(out).expanduser()))


def read_parts(
    source: object,
    tensors: Mapping[str, LazyTensor],
    model: 'str | Config | None' = None,
    allow: Iterable[str] = (),
) -> tuple[dict[str, dict[str, LazyTensor]], dict[str, KeyReport]]:
    """The parts that some tensors hold, under our names, and reports.

    Raises:
        ValueError: There is no part, or one that does not fit the model.
    """
    wanted = wanted_shapes(model or DEFAULT_MODEL)
    if model is None:
        wanted['head'] = _published_head(tensors, wanted['head'])
    found, reports = {}, {}
    for part in PARTS:
        mine, report = from_layout(part, tensors, wanted[part], allow)
        hits = len(wanted[part]) - len(report.missing)
        # a name or two may be another part's: eva_vit_g.pth has a norm.weight
        if 2 * hits < min(len(wanted[part]), len(tensors)) or not hits:
            continue
        report.check(
            source,
            f'the {part} of {model or DEFAULT_MODEL}',
            'name the model that it belongs to (--model) or what may differ '
            '(--allow)',
        )
        if part == 'head':
            report.notes.append(_describe_head(mine))
            for name, lazy in mine.items():
                as_weight(name, lazy.read(), source)
            mark = match_names(tensors, {FINGERPRINT}, source)
            if mark:
                mine[FINGERPRINT] = tensors[mark[FINGERPRINT]]
                decode_fingerprint(mine[FINGERPRINT].read(), source)
                report.matched.append(FINGERPRINT)
                del report.left_over[mark[FINGERPRINT]]
        found[part], reports[part] = mine, report
    if not found:
        names = ', '.join(list(tensors)[:3]) or 'nothing'
        raise ValueError(
            f'{source} holds no backbone, neck or head of MiniGPT-4 but '
            f'{names}{" ..." if len(tensors) > 3 else ""}; give one of the '
            'files that docs/weights.md lists.'
        )
    return found, reports


def _published_head(
    tensors: Mapping[str, LazyTensor], usual: Shapes
) -> Shapes:
    """The shapes of the file's head, if such a head was published."""
    names = match_names(tensors, {_WEIGHT, 'llama_proj.weight'}, 'the file')
    for name in names.values():
        shape = tensors[name].shape
        if shape in _PUBLISHED_HEADS:
            return {_WEIGHT: shape, 'head.layers.0.bias': shape[:1]}
    return usual


def _add_fingerprint(
    found: dict[str, dict[str, LazyTensor]],
    source: object,
    llm: 'str | Path',
    model: 'str | Config',
) -> None:
    """Let a head know its LLM from now on.

    Raises:
        ValueError: There is no head, or it knows its LLM already.
    """
    if 'head' not in found:
        raise ValueError(
            f'{source} holds no head, so it needs no fingerprint of an LLM; '
            'leave --llm out.'
        )
    if FINGERPRINT in found['head']:
        raise ValueError(
            f'{source} has a fingerprint already, which --llm would '
            'overwrite; leave it out.'
        )
    template = load_config(model).model.get('prompt_template', 'vicuna_v0')
    known = dict(fingerprint_of(llm), template=template)
    found['head'][FINGERPRINT] = LazyTensor.of(encode_fingerprint(known))


def _describe_head(head: Mapping[str, LazyTensor]) -> str:
    """Which LLM a projection belongs to."""
    if _WEIGHT not in head:
        return 'the projection was allowed to be missing'
    to, width = head[_WEIGHT].shape
    llm = _PUBLISHED_HEADS.get((to, width), 'an LLM of that width')
    return f'a projection {width} -> {to}, for {llm}'


def write_part(
    path: Path, part: str, tensors: Mapping[str, LazyTensor], to: str
) -> None:
    """Write the file of one part; it stands there whole or not at all.

    Args:
        path: The file.
        part: Which part.
        tensors: Its tensors by our names.
        to: The layout.
    """
    if to != 'ours' and 'head.layers.2.weight' in tensors:
        raise ValueError(
            f'the head has several layers, for which the {to} layout has no '
            'names; it can be kept in our layout alone (--to ours).'
        )
    named = to_layout(part, to, tensors)
    if path.suffix == '.safetensors':
        write_safetensors(path, named, progress=path.name)
        return
    key = None  # a backbone stands alone
    if to == 'official' and part != 'backbone':
        key = 'model'
    elif to == 'mmpretrain' or part == 'head':
        key = 'state_dict'
    write_pickle(path, named, key, progress=path.name)
