# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check for ``minigpt4 doctor`` the shipped weights and the user's LLM.

Of the package only modules that need the standard library alone are imported,
without the package itself; see :func:`import_alone`.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

from .doctor_report import Report

LLM_VARIABLE = 'MINIGPT4_LLM'
PACKAGE = Path(__file__).resolve().parents[1] / 'minigpt4'
# files that each model's folder of shipped weights must have
SHIPPED_FILES = {
    'nano': (
        'eva_vit.safetensors',
        'q_former.safetensors',
        'minigpt4_nano.pth',
        'llm/config.json',
        'llm/model.safetensors',
        'llm/tokenizer.model',
    ),
    'small': ('minigpt4_small.pth',),
}


def import_alone(name: str) -> types.ModuleType:
    """Import a module of the package without importing the package.

    Args:
        name: The module, relative to the package; it must need the standard
            library only.
    """
    stub = 'minigpt4_standalone'
    if stub not in sys.modules:
        package = types.ModuleType(stub)
        package.__path__ = [str(PACKAGE)]
        sys.modules[stub] = package
    return importlib.import_module(f'{stub}.{name}')


def check_shipped_weights(report: Report, package: Path = PACKAGE) -> None:
    """Check that the weights in the package are complete.

    Args:
        report: The report to add to.
        package: The folder of the package.
    """
    for model in SHIPPED_FILES:
        _check_shipped(report, model, package / model / 'weights')


def _check_shipped(report: Report, model: str, folder: Path) -> None:
    """Check the shipped weights of one model.

    Args:
        report: The report to add to.
        model: Its name in ``SHIPPED_FILES``.
        folder: The folder of its weights.
    """
    names = SHIPPED_FILES[model]
    missing = [name for name in names if not (folder / name).is_file()]
    fix = (
        'pip install --force-reinstall --no-deps minigpt4, or in a checkout: '
        f'git checkout -- projects/minigpt4/{model}/weights'
    )
    if missing:
        state = 'missing' if len(missing) == len(names) else 'incomplete'
        report.weights.append(f'{model}: {state}')
        report.add_fault(
            f'the {model} model cannot run: no {missing[0]} under {folder}',
            fix,
        )
        return
    file_errors = import_alone('weights.file_errors')
    for file in sorted(folder.rglob('*.safetensors')):
        found = file_errors.safetensors_error(file)
        if found:
            report.add_fault(f'{file} {found[0]}', fix)
    for file in sorted(folder.rglob('*.pth')):
        if not zipfile.is_zipfile(file):
            report.add_fault(f'{file} is damaged: it is no zip archive', fix)
    n_bytes = sum((folder / name).stat().st_size for name in names)
    count = f'{len(names)} file{"s" * (len(names) > 1)}'
    report.weights.append(f'{model}: {count}, {n_bytes / 1e6:.1f} MB')


def describe_package_files(report: Report) -> None:
    """Report where the weights from packages of the index are."""
    sources = import_alone('weights.package_sources')
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    cache = os.environ.get('MINIGPT4_CACHE') or f'{cache}/minigpt4'
    for source in sources.known_sources():
        name = source.member.rpartition('/')[2]
        if sources.find_installed(source) is not None:
            state = 'installed'
        elif (Path(cache).expanduser() / f'{name}.json').is_file():
            state = 'downloaded'
        elif not _has_pip():
            state = (
                'not downloaded, and there is no pip to do it (python -m '
                'ensurepip)'
            )
        else:
            state = 'not downloaded'
        report.weights.append(f'{source.requirement}: {name}: {state}')


def check_llm(report: Report) -> None:
    """Check the LLM that ``MINIGPT4_LLM`` names, if it is set."""
    value = os.environ.get(LLM_VARIABLE)
    if not value:
        report.weights.append(
            f'LLM: {LLM_VARIABLE} is not set; the nano and the small model '
            'need none, Vicuna is read from the folder it names'
        )
        return
    folder = Path(value).expanduser()
    sources = import_alone('weights.package_sources')
    if sources.is_package_source(value):
        try:
            source = sources.parse_source(value)
        except ValueError as error:
            report.weights.append(f'LLM: {value}: not a file of a package')
            report.add_fault(
                f'{LLM_VARIABLE}: {error}',
                f'export {LLM_VARIABLE}={sources.NOTATION}',
            )
            return
        installed = sources.find_installed(source)
        if installed is None:
            report.weights.append(
                f'LLM: {value}, downloaded when it is needed'
            )
            return
        folder = installed
    gguf = import_alone('weights.gguf_header')
    if gguf.is_gguf(folder):
        _check_gguf(report, value, folder, gguf)
        return
    if not folder.is_dir():
        if re.fullmatch(r'[\w.-]+/[\w.-]+', value):
            report.weights.append(
                f'LLM: {value} is no local folder, so a hub repository'
            )
            return
        report.weights.append(f'LLM: {value} does not exist')
        report.add_fault(
            f'{LLM_VARIABLE} is {value!r}, which is no folder',
            f'export {LLM_VARIABLE}=FOLDER_OF_THE_LLM',
        )
        return
    try:
        checks = import_alone('weights.check_llm_folder')
        faults = list(checks.find_faults(folder))
        description = _describe_llm(folder)
    except OSError as error:
        faults, description = [], str(error)
        report.add_fault(
            f'the LLM in {value} cannot be read: {error}', 'ls -la'
        )
    report.weights.append(
        f'LLM: {value}: {faults[0].what if faults else description}'
    )
    for fault in faults:
        report.add_fault(
            f'the LLM in {value} cannot be loaded: {fault.what}',
            _fix(fault.advice, value),
        )
    if description.endswith('hidden_size unknown'):
        report.add_fault(
            f'the LLM in {value} cannot be loaded: config.json has no '
            'hidden_size, so this is not a causal LM',
            f'export {LLM_VARIABLE}=FOLDER_OF_THE_LLM',
        )


def _check_gguf(
    report: Report, value: str, path: Path, gguf: types.ModuleType
) -> None:
    """Check an LLM in a GGUF file.

    Args:
        report: The report to add to.
        value: The value of the variable.
        path: The file.
        gguf: The module ``weights.gguf_header``.
    """
    try:
        header = gguf.read_header(path)
    except (OSError, ValueError) as error:
        report.weights.append(f'LLM: {value}: damaged')
        report.add_fault(
            f'the LLM in {value} cannot be loaded: {error}',
            f'export {LLM_VARIABLE}=ANOTHER_FILE.gguf',
        )
        return
    width = header.metadata.get(f'{header.architecture}.embedding_length')
    report.weights.append(
        f'LLM: {value}: GGUF, {header.architecture}, hidden_size {width}'
    )
    if importlib.util.find_spec('gguf') is None:
        report.add_fault(
            f'{LLM_VARIABLE} names a GGUF file, but the package gguf is not '
            'installed',
            "pip install 'minigpt4[small]'",
        )


def _fix(advice: str, folder: str) -> str:
    """Return the command for an advice, or the advice if there is none."""
    if 'git lfs pull' in advice:
        return f'git -C {shlex.quote(folder)} lfs pull'
    if 'download' in advice:
        return (
            f'{advice}, e.g. hf download Vision-CAIR/vicuna-7b '
            f'--local-dir {shlex.quote(folder)}'
        )
    return advice


def _describe_llm(folder: Path) -> str:
    """Describe the LLM in a folder by type and width."""
    try:
        config: Any = json.loads((folder / 'config.json').read_text('utf-8'))
    except (OSError, ValueError):
        return 'unknown'
    if not isinstance(config, dict):
        return 'unknown'
    names = ('hidden_size', 'n_embd', 'd_model', 'dim')
    width = next((config[n] for n in names if n in config), 'unknown')
    return f'{config.get("model_type", "model")}, hidden_size {width}'


def _has_pip() -> bool:
    """Whether pip is installed.

    ``find_spec('pip')`` would tell setuptools that pip runs in this process,
    and a later import of setuptools would fail.
    """
    try:
        importlib.metadata.version('pip')
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
