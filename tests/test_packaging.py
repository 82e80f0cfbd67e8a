# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The wheel, the requirements, and rules for every file."""

import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip('tomli')

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = ROOT / 'projects'
PACKAGES = ('minigpt4', 'minigpt4_cli', 'minigpt4_vllm')
MODULES = sorted(
    path.relative_to(PROJECTS)
    for package in PACKAGES
    for path in (PROJECTS / package).rglob('*.py')
    if '.mim' not in path.parts
)
NEED_VLLM = ('images', 'models', 'processors', 'registration', 'vision')
NOT_SOURCE = {
    '__pycache__',
    'build',
    'data',
    'dist',
    'node_modules',
    'site',
    'work_dirs',
}


def name_of(path: Path) -> str:
    """Dotted name of a module, from its path in projects/."""
    parts = path.with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def source_files() -> list[Path]:
    """The files of the repository, without the files that git ignores."""
    listed = subprocess.run(
        ['git', 'ls-files', '-z', '-co', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and (ROOT / '.git').exists():
        names = listed.stdout.split('\0')
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob('*')
        if path.is_file()
        and not any(
            part in NOT_SOURCE
            or part.endswith('.egg-info')
            or (part.startswith('.') and part not in ('.ci', '.github'))
            for part in path.relative_to(ROOT).parts[:-1]
        )
    ]


def pyproject() -> dict:
    return tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))


def constraints(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text('utf-8').splitlines()
    return [
        Requirement(line)
        for line in lines
        if line.strip() and not line.startswith('#')
    ]


def ranges() -> list[Requirement]:
    """Every range of pyproject.toml, the extras included."""
    project = pyproject()['project']
    extras = project['optional-dependencies'].values()
    lines = [*project['dependencies'], *(x for extra in extras for x in extra)]
    return [
        Requirement(line) for line in lines if not line.startswith('minigpt4')
    ]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the files without the network."""
    import setuptools

    assert int(setuptools.__version__.split('.')[0]) >= 77, (
        f'setuptools {setuptools.__version__} cannot build the wheel, which '
        'takes 77 or newer; run bash tools/setup_env.sh.'
    )
    folder = tmp_path_factory.mktemp('wheel')
    copy = folder / 'checkout'
    for path in source_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    run = subprocess.run(
        [
            *(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps'),
            *('--no-build-isolation', '--no-index', '--wheel-dir'),
            *(str(folder), str(copy)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    (file,) = folder.glob('minigpt4-*.whl')
    return zipfile.ZipFile(file)


def test_wheel_has_every_module(wheel):
    names = set(wheel.namelist())
    missing = [str(path) for path in MODULES if path.as_posix() not in names]
    assert not missing, 'a folder without __init__.py is omitted'


def test_wheel_is_marked_as_typed(wheel):
    names = set(wheel.namelist())
    for package in PACKAGES:
        assert f'{package}/py.typed' in names


def test_wheel_has_the_mim_folder(wheel):
    names = set(wheel.namelist())
    assert 'minigpt4/.mim/model-index.yml' in names
    expected = [
        'minigpt4/.mim/' + path.relative_to(ROOT).as_posix()
        for path in source_files()
        if path.relative_to(ROOT).parts[0] in ('configs', 'tools')
    ]
    assert any('/configs/' in name for name in expected)
    assert set(expected) <= names


def test_wheel_has_the_nano_weights(wheel):
    weights = [
        path.relative_to(PROJECTS).as_posix()
        for path in (PROJECTS / 'minigpt4/nano/weights').rglob('*')
        if path.is_file()
    ]
    if not weights:
        pytest.skip('no weights: tools/build_nano.py makes them')
    sizes = {info.filename: info.file_size for info in wheel.infolist()}
    assert set(weights) <= set(sizes)
    assert sum(sizes[name] for name in weights) < 8e6


def test_wheel_has_no_other_files(wheel):
    """No tests, caches or build files; the top-level packages."""
    tops = {name.split('/')[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith('.dist-info')} == {
        *PACKAGES
    }
    assert not [name for name in wheel.namelist() if '__pycache__' in name]


def test_wheel_metadata(wheel):
    (about,) = (n for n in wheel.namelist() if n.endswith('METADATA'))
    text = wheel.read(about).decode()
    assert 'License-Expression: Apache-2.0' in text
    assert 'Requires-Python: <3.13,>=3.10' in text
    (scripts,) = (n for n in wheel.namelist() if 'entry_points' in n)
    text = wheel.read(scripts).decode()
    assert 'minigpt4 = minigpt4_cli.main:main' in text
    assert '[lmms_eval.models]' in text
    assert 'minigpt4 = minigpt4.harness.lmms_eval_models:MODELS' in text
    assert '[vllm.general_plugins]' in text
    assert 'minigpt4 = minigpt4_vllm:register' in text


@pytest.mark.parametrize('file', ['constraints.txt', 'constraints-oldest.txt'])
def test_constraints_satisfy_the_ranges(file):
    allowed = {r.name.lower(): r.specifier for r in ranges()}
    for pin in constraints(file):
        if pin.name.lower() in allowed:
            for version in pin.specifier:
                assert allowed[pin.name.lower()].contains(version.version), (
                    f'{file} has {pin}, pyproject.toml asks for '
                    f'{allowed[pin.name.lower()]}'
                )


def test_every_requirement_is_pinned():
    needed = {
        Requirement(line).name
        for line in pyproject()['project']['dependencies']
    }
    tested = {pin.name for pin in constraints('constraints.txt')}
    oldest = {pin.name for pin in constraints('constraints-oldest.txt')}
    assert needed <= tested
    assert needed <= oldest


def test_oldest_constraints_are_the_floors():
    pins = {
        pin.name: str(pin.specifier).removeprefix('==')
        for pin in constraints('constraints-oldest.txt')
    }
    for line in pyproject()['project']['dependencies']:
        requirement = Requirement(line)
        (floor,) = (
            s.version for s in requirement.specifier if s.operator == '>='
        )
        pin = pins[requirement.name]
        assert pin == floor or pin.startswith(f'{floor}.'), requirement


def test_openmim_and_mmcv_are_no_requirements():
    assert not {'openmim', 'mmcv'} & {r.name.lower() for r in ranges()}


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_module_imports(path):
    if path.stem.startswith('lmms_eval'):
        pytest.importorskip('lmms_eval', reason='needs lmms-eval')
    if path.parts[0] == 'minigpt4_vllm' and path.stem in NEED_VLLM:
        pytest.importorskip('vllm', reason='needs vLLM')
    importlib.import_module(name_of(path))


def test_only_compat_checks_versions():
    """Every `if version` of the project is in compat.py."""
    asks = re.compile(r'\b(torch|transformers|mmengine|mmcv)\.__version__')
    found = [
        str(path)
        for path in MODULES
        if asks.search((PROJECTS / path).read_text('utf-8'))
        and not path.stem.startswith(('compat', 'doctor'))
    ]
    assert not found


def test_no_file_names_a_path_of_a_machine():
    """No file names a home folder or another folder of one machine."""
    # in pieces, or this file would be found too
    words = ('ho' + 'me', 'ro' + 'ot', 'wo' + 'rk', 'Us' + 'ers', 'mn' + 't')
    path_of_machine = re.compile(
        rf'(?<![\w.$}}~:/-])/(?:{"|".join(words)})/[\w.-]+'.encode()
    )
    found = [
        f'{path.relative_to(ROOT)}: {match[0].decode()}'
        for path in source_files()
        if path.stat().st_size < 1e6
        and path.suffix not in ('.png', '.jpg', '.safetensors', '.pth')
        for match in path_of_machine.finditer(path.read_bytes())
    ]
    assert not found


def test_no_symbolic_links():
    """A link breaks on other machines and on Windows."""
    listed = subprocess.run(
        ['git', 'ls-files', '-s'], cwd=ROOT, capture_output=True, text=True
    )
    links = [
        line.partition('\t')[2]
        for line in listed.stdout.splitlines()
        if line.startswith('120000')
    ]
    assert not links


def test_python_files_have_the_header():
    header = '# Copyright (c) The MiniGPT-4 plugin authors. '
    found = [
        str(path.relative_to(ROOT))
        for path in source_files()
        if path.suffix == '.py'
        and path.relative_to(ROOT).parts[0] in ('projects', 'tools', 'tests')
        and path.stat().st_size
        and header not in path.read_text('utf-8')[:200]
    ]
    assert not found


def test_every_extra_is_in_the_table_of_the_docs():
    text = (ROOT / 'docs/install.md').read_text('utf-8')
    for extra in pyproject()['project']['optional-dependencies']:
        assert f'\n| `{extra}` | ' in text, extra
