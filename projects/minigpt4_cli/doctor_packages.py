# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check for ``minigpt4 doctor`` that the right packages are installed."""

import importlib
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .doctor_report import Report

if TYPE_CHECKING:  # packaging may be missing
    from packaging.requirements import Requirement

DISTRIBUTION = 'minigpt4'
USER_EXTRAS = ('lora', 'quant', 'small', 'tensorboard')
# distribution: the module to import, if the names differ
MODULES = {
    'mmcv-lite': 'mmcv',
    'pillow': 'PIL',
    'protobuf': 'google.protobuf',
    'PyYAML': 'yaml',
}
# distribution: another one that provides the same module
ALTERNATIVES = {'mmcv-lite': 'mmcv'}
# distribution: the misleading error that its absence causes
MISLEADING_ERRORS = {
    'protobuf': 'without it transformers asks for tiktoken when it reads a '
    'tokenizer.model',
    'sentencepiece': 'without it transformers asks for tiktoken when it '
    'reads a tokenizer.model',
}


def check_versions(report: Report) -> None:
    """Compare installed versions with the requirements of this package."""
    try:
        from packaging.requirements import Requirement
    except ImportError as error:
        report.add_fault(
            f'versions cannot be compared: {error}', 'pip install packaging'
        )
        return
    found = platform.python_version()
    report.python = {'found': found, 'required': 'unknown'}
    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        report.add_fault(
            f'{DISTRIBUTION} is imported from a folder and not installed, so '
            'the versions it needs are unknown',
            'pip install -e . (in the checkout)',
        )
        return
    required = about['Requires-Python'] or ''
    report.python['required'] = required
    if not Requirement(f'python{required}').specifier.contains(found):
        report.add_fault(
            f'Python {found} found, {required} required',
            'create an environment with one of these, e.g. python3.11 -m venv '
            '.venv',
        )
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = re.search(r'extra == ["\'](\w+)["\']', line)
        if extra is None:
            _check_package(report, requirement, extra=None)
        elif extra[1] in USER_EXTRAS:
            _check_package(report, requirement, extra=extra[1])
    _check_own_import(report)


def _check_package(
    report: Report, requirement: 'Requirement', extra: str | None
) -> None:
    """Add one requirement to the report, and its fault if there is one."""
    name, required = requirement.name, requirement.specifier
    package: dict[str, Any] = {
        'name': name,
        'found': _version(name),
        'required': str(required),
        'extra': extra,
        'state': 'ok',
    }
    report.packages.append(package)
    if package['found'] is None and name in ALTERNATIVES:
        package['found'] = _version(ALTERNATIVES[name])
        if package['found'] is not None:
            package['name'] = name = ALTERNATIVES[name]
    found = package['found']
    install = f'pip install "{name}{required}"'
    if found is None:
        package['state'] = 'not installed' if extra else 'missing'
        if not extra:
            hint = MISLEADING_ERRORS.get(name)
            report.add_fault(
                f'{name} is missing, {required} required'
                + (f': {hint}' if hint else ''),
                install,
            )
        return
    if not required.contains(found, prereleases=True):
        package['state'] = 'wrong version'
        report.add_fault(f'{name} {found} found, {required} required', install)
        return
    conflicts = list(_find_conflicts(name))
    for needed, version in conflicts:
        package['state'] = 'conflict'
        report.add_fault(
            f'{name} {found} needs {needed}, but {version} is installed',
            f'pip install --upgrade "{name}{required}" '
            f'"{needed.name}=={version.split("+")[0]}"',
        )
    module = MODULES.get(name, name.replace('-', '_'))
    error = None if conflicts else import_error(module)
    if error is not None:
        package['state'] = 'broken'
        report.add_fault(
            f'{name} {found} is installed, but "import {module}" '
            f'fails: {error}',
            f'pip install --force-reinstall "{name}=={found}"',
        )


def _version(name: str) -> str | None:
    """Return the installed version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _find_conflicts(name: str) -> Iterator[tuple['Requirement', str]]:
    """Yield the requirements of a package that another one does not meet.

    torchvision requires one exact version of torch, so this finds a wrong
    pair before its import fails with a missing operator.

    Yields:
        The requirement, and the installed version.
    """
    from packaging.requirements import Requirement

    for line in metadata.requires(name) or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({'extra': ''}):
            continue
        version = _version(needed.name)
        if version and not needed.specifier.contains(version, True):
            yield needed, version


def import_error(module: str) -> str | None:
    """Import a module; return its error in one line, None without one."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken library may raise anything
        text = ' '.join(str(error).split())
        return f'{type(error).__name__}: {text[:300]}'
    return None


def _check_own_import(report: Report) -> None:
    """Import this package if its requirements are met."""
    if report.faults:
        return  # they would be the reason of a failure
    error = import_error(DISTRIBUTION)
    if error is not None:
        report.add_fault(
            f'every package is right, but "import {DISTRIBUTION}" fails: '
            f'{error}',
            'install the tested versions: pip install -e . -c '
            'constraints.txt (in the checkout)',
        )
