# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 doctor``: what is installed, what fails, how to repair it.

Nothing that may be broken is imported at the top, and of the package only
modules of the standard library alone, without the package itself: versions
come from the metadata of the installed distributions, the wanted
ranges from this distribution's own, and each import that fails is a finding.
"""

import argparse
import contextlib
import importlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import types
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

DISTRIBUTION = 'minigpt4'
LLM_VARIABLE = 'MINIGPT4_LLM'
PACKAGE = Path(__file__).resolve().parents[1] / 'minigpt4'
NANO_WEIGHTS = PACKAGE / 'nano' / 'weights'
USER_EXTRAS = ('lora', 'quant', 'tensorboard')
# distribution: the module to import, where the names differ
MODULES = {
    'mmcv-lite': 'mmcv',
    'pillow': 'PIL',
    'protobuf': 'google.protobuf',
}
# distribution: another one with the same module, as good for this project
STAND_INS = {'mmcv-lite': 'mmcv'}
# what a user sees when the package is missing, if that misleads
MISLEADS = {
    'protobuf': 'without it transformers asks for tiktoken when it reads a '
    'tokenizer.model',
    'sentencepiece': 'without it transformers asks for tiktoken when it '
    'reads a tokenizer.model',
}
GIB = 2**30
NANO_FILES = (
    'eva_vit.safetensors',
    'q_former.safetensors',
    'minigpt4_nano.pth',
    'llm/config.json',
    'llm/model.safetensors',
    'llm/tokenizer.model',
)


class Report:
    """What the checks found.

    Attributes:
        python: Found and wanted version of Python.
        packages: A row for each required or optional package.
        devices: Lines on the CPU and the GPUs.
        weights: Lines on the shipped weights and the user's LLM.
        faults: Pairs of what will not work and what mends it.
    """

    def __init__(self) -> None:
        self.python: dict[str, str] = {}
        self.packages: list[dict] = []
        self.devices: list[str] = []
        self.weights: list[str] = []
        self.faults: list[dict[str, str]] = []

    def fault(self, what: str, mend: str) -> None:
        """Note what will not work, and the command that mends it."""
        self.faults.append({'what': what, 'mend': mend})


def examine() -> Report:
    """Run every check; prints nothing and changes nothing."""
    report = Report()
    # Libraries warn and print as they are imported; stdout is the report's.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter('ignore')
        check_versions(report)
        check_devices(report)
        check_nano_weights(report)
        check_llm(report)
    return report


def check_versions(report: Report) -> None:
    """Compare what is installed with what this distribution asks for."""
    try:
        from packaging.requirements import Requirement
    except ImportError as error:
        report.fault(
            f'versions cannot be compared: {error}', 'pip install packaging'
        )
        return
    found = platform.python_version()
    report.python = {'found': found, 'wanted': 'unknown'}
    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        report.fault(
            f'{DISTRIBUTION} is imported from a folder and not installed, so '
            'the versions it needs are unknown',
            'pip install -e . (in the checkout)',
        )
        return
    wanted = about['Requires-Python'] or ''
    report.python['wanted'] = wanted
    if not Requirement(f'python{wanted}').specifier.contains(found):
        report.fault(
            f'Python {found} found, {wanted} wanted',
            'make an environment with one of these, e.g. python3.11 -m venv '
            '.venv',
        )
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = re.search(r'extra == ["\'](\w+)["\']', line)
        if extra is None:
            _check_package(report, requirement, extra=None)
        elif extra[1] in USER_EXTRAS:
            _check_package(report, requirement, extra=extra[1])
    _import_package(report)


def _check_package(report: Report, requirement, extra: str | None) -> None:
    """Append a row for one requirement, and what is wrong with it."""
    name, wanted = requirement.name, requirement.specifier
    row = {
        'name': name,
        'found': _version(name),
        'wanted': str(wanted),
        'extra': extra,
        'state': 'ok',
    }
    report.packages.append(row)
    install = f'pip install "{name}{wanted}"'
    if row['found'] is None and name in STAND_INS:
        row['found'] = _version(STAND_INS[name])
        if row['found'] is not None:
            row['name'] = name = STAND_INS[name]
            install = f'pip install "{name}{wanted}"'
    if row['found'] is None:
        row['state'] = 'not installed' if extra else 'missing'
        if not extra:
            why = f': {MISLEADS[name]}' if name in MISLEADS else ''
            report.fault(f'{name} is missing, {wanted} wanted{why}', install)
        return
    if not wanted.contains(row['found'], prereleases=True):
        row['state'] = 'wrong version'
        report.fault(f'{name} {row["found"]} found, {wanted} wanted', install)
        return
    conflicts = list(_conflicts(name))
    for needed, version in conflicts:
        row['state'] = 'conflict'
        report.fault(
            f'{name} {row["found"]} needs {needed}, but {version} is here',
            f'pip install --upgrade "{name}{wanted}" '
            f'"{needed.name}=={version.split("+")[0]}"',
        )
    module = MODULES.get(row['name'], name.replace('-', '_'))
    error = None if conflicts else _import_error(module)
    if error is not None:
        row['state'] = 'broken'
        report.fault(
            f'{name} {row["found"]} is installed, but "import {module}" '
            f'fails: {error}',
            f'pip install --force-reinstall "{name}=={row["found"]}"',
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _conflicts(name: str) -> Iterator[tuple]:
    """Requirements of an installed package that another one breaks.

    torchvision asks for one exact torch, so this finds a pair that does not
    fit before its import dies with a missing operator.
    """
    from packaging.requirements import Requirement

    for line in metadata.requires(name) or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({'extra': ''}):
            continue
        version = _version(needed.name)
        if version and not needed.specifier.contains(version, True):
            yield needed, version


def _import_error(module: str) -> str | None:
    """The real reason why a module cannot be imported, in one line."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken library may raise anything
        text = ' '.join(str(error).split())
        return f'{type(error).__name__}: {text[:300]}'
    return None


def _import_package(report: Report) -> None:
    if report.faults:
        return  # they are the reason, should it fail
    error = _import_error(DISTRIBUTION)
    if error is not None:
        report.fault(
            f'every package is right, but "import {DISTRIBUTION}" fails: '
            f'{error}',
            'install the tested versions: pip install -e . -c '
            'constraints.txt (in the checkout)',
        )


def check_devices(report: Report) -> None:
    """Say what there is to compute on."""
    try:
        n_cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        n_cores = os.cpu_count() or 1
    report.devices.append(f'CPU: {n_cores} cores, {_memory()}')
    torch = sys.modules.get('torch')
    if torch is None or not hasattr(torch, 'cuda'):
        report.devices.append('GPU: unknown, torch does not import')
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            report.devices.append(_gpu(report, torch, index))
    elif torch.backends.mps.is_available():
        report.devices.append('GPU: Apple Metal (mps)')
    elif shutil.which('nvidia-smi'):
        report.devices.append('GPU: not usable')
        build = torch.version.cuda
        report.fault(
            'there is an NVIDIA driver, but torch '
            + (f'for CUDA {build} sees no GPU' if build else 'has no CUDA'),
            'nvidia-smi (the driver must know this CUDA and a GPU must be '
            'visible: see CUDA_VISIBLE_DEVICES)'
            if build
            else 'pip install --force-reinstall torch torchvision (a CUDA '
            'build: see pytorch.org)',
        )
    else:
        report.devices.append('GPU: none')


def _memory() -> str:
    try:
        total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (AttributeError, ValueError, OSError):
        return 'memory unknown'
    return f'{total / GIB:.0f} GiB memory'


def _gpu(report: Report, torch, index: int) -> str:
    """A line on one GPU, after a first multiplication on it."""
    try:
        properties = torch.cuda.get_device_properties(index)
        x = torch.ones(8, 8, device=f'cuda:{index}')
        (x @ x).sum().item()
        bf16 = properties.major >= 8
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        report.fault(
            f'GPU {index} does not compute: {text}',
            f'nvidia-smi -i {index} (is it in use, or too old or too new for '
            f'torch {torch.__version__}?)',
        )
        return f'GPU {index}: not usable'
    return (
        f'GPU {index}: {properties.name}, '
        f'{properties.total_memory / GIB:.0f} GiB, '
        + ('bf16' if bf16 else 'no bf16, so fp16')
    )


def check_nano_weights(report: Report, folder: Path = NANO_WEIGHTS) -> None:
    """Check that the shipped weights are there and whole."""
    files = sorted(folder.rglob('*.safetensors')) if folder.is_dir() else []
    missing = [f for f in NANO_FILES if not (folder / f).is_file()]
    mend = (
        'pip install --force-reinstall --no-deps minigpt4, or in a checkout: '
        'git checkout -- projects/minigpt4/nano/weights'
    )
    if missing:
        report.weights.append('nano: incomplete' if files else 'nano: missing')
        report.fault(
            f'the nano model cannot run: no {missing[0]} under {folder}', mend
        )
        return
    file_errors = _standalone('weights.file_errors')
    for file in files:
        found = file_errors.safetensors_error(file)
        if found:
            report.fault(f'{file} {found[0]}', mend)
    n_bytes = sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())
    report.weights.append(f'nano: {len(files)} files, {n_bytes / 1e6:.1f} MB')


def _standalone(name: str) -> types.ModuleType:
    """Import a module of the package without running the package itself."""
    stub = 'minigpt4_standalone'
    if stub not in sys.modules:
        package = types.ModuleType(stub)
        package.__path__ = [str(PACKAGE)]
        sys.modules[stub] = package
    return importlib.import_module(f'{stub}.{name}')


def check_llm(report: Report) -> None:
    """Check the folder that ``MINIGPT4_LLM`` names; unset is no fault."""
    value = os.environ.get(LLM_VARIABLE)
    if not value:
        report.weights.append(
            f'LLM: {LLM_VARIABLE} is not set; the nano model needs none, '
            'Vicuna is read from the folder it names'
        )
        return
    folder = Path(value).expanduser()
    if not folder.is_dir():
        if re.fullmatch(r'[\w.-]+/[\w.-]+', value):
            report.weights.append(
                f"LLM: {value}, no local folder, so a hub's repository"
            )
            return
        report.weights.append(f'LLM: {value} does not exist')
        report.fault(
            f'{LLM_VARIABLE} is {value!r}, which is no folder',
            f'export {LLM_VARIABLE}=FOLDER_OF_THE_LLM',
        )
        return
    try:
        faults = list(_standalone('weights.llm_folder').find_faults(folder))
        line = _description(folder)
    except OSError as error:
        faults, line = [], str(error)
        report.fault(f'the LLM in {value} cannot be read: {error}', 'ls -la')
    report.weights.append(
        f'LLM: {value}: {faults[0].what if faults else line}'
    )
    for fault in faults:
        report.fault(
            f'the LLM in {value} cannot be loaded: {fault.what}',
            _repair(fault, value),
        )
    if line.endswith('hidden_size unknown'):
        report.fault(
            f'the LLM in {value} cannot be loaded: config.json has no '
            'hidden_size, so this is not a causal LM',
            f'export {LLM_VARIABLE}=FOLDER_OF_THE_LLM',
        )


def _repair(fault, folder: str) -> str:
    """The command, or else the advice, that repairs an LLM's folder."""
    if 'git lfs pull' in fault.advice:
        return f'git -C {shlex.quote(folder)} lfs pull'
    if 'download' in fault.advice:
        return (
            f'{fault.advice}, e.g. hf download Vision-CAIR/vicuna-7b '
            f'--local-dir {shlex.quote(folder)}'
        )
    return fault.advice


def _description(folder: Path) -> str:
    """A line on the LLM in a folder without faults."""
    try:
        config = json.loads((folder / 'config.json').read_text('utf-8'))
    except (OSError, ValueError):
        return 'unknown'
    if not isinstance(config, dict):
        return 'unknown'
    names = ('hidden_size', 'n_embd', 'd_model', 'dim')
    width = next((config[n] for n in names if n in config), 'unknown')
    return f'{config.get("model_type", "model")}, hidden_size {width}'


def print_report(report: Report) -> None:
    """One screen: versions, devices, weights, and what to mend."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        _print_plain(report)
        return
    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('package', 'found', 'wanted', 'state'):
        table.add_column(heading, overflow='fold')
    for cells in _rows(report):
        bad = cells[-1] not in ('ok', '') and 'not installed' not in cells[-1]
        style = 'red' if bad else None
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    for line in (*report.devices, *report.weights):
        console.print(Text(line))
    for fault in report.faults:
        console.print()
        console.print(Text(f'✗ {fault["what"]}', 'red'))
        console.print(Text(f'  mend: {fault["mend"]}'), soft_wrap=True)
    console.print()
    console.print(
        Text(_verdict(report), 'bold red' if report.faults else 'bold green')
    )


def _print_plain(report: Report) -> None:
    for cells in _rows(report):
        print(f'{cells[0]:28} {cells[1]:12} {cells[2]:20} {cells[3]}')
    print('\n'.join([*report.devices, *report.weights]))
    for fault in report.faults:
        print(f'\n* {fault["what"]}\n  mend: {fault["mend"]}')
    print('\n' + _verdict(report))


def _rows(report: Report) -> Iterator[tuple[str, str, str, str]]:
    python = report.python
    if python:
        yield 'python', python['found'], python['wanted'], ''
    for row in report.packages:
        optional = f' (optional: {row["extra"]})' if row['extra'] else ''
        yield (
            row['name'] + optional,
            row['found'] or '-',
            row['wanted'],
            row['state'],
        )


def _verdict(report: Report) -> str:
    n = len(report.faults)
    if not n:
        return 'No fault found.'
    return f'{n} fault{"s" if n > 1 else ""} found; mend the first one first.'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        'Check what is installed and what does not work; print how to repair '
        'it.'
    )
    parser.add_argument(
        '--json', action='store_true', help='print the findings as JSON'
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Returns:
        1 where something will not work or the report cannot be written,
        else 0.
    """
    report = examine()
    try:
        if args.json:
            print(json.dumps(vars(report), indent=2))
        else:
            print_report(report)
        sys.stdout.flush()  # here, where a failure can be reported
    except OSError as error:
        # what is left would fail again when Python flushes it at exit
        with contextlib.suppress(OSError, ValueError):  # no file at all
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            reason = error.strerror or error
            print(
                f'error: the report could not be written: {reason}',
                file=sys.stderr,
            )
        return 1
    return 1 if report.faults else 0
