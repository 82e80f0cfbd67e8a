# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The subpackages: their import order, and tests named by module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = ROOT / 'projects'
PACKAGE = PROJECTS / 'minigpt4'
COMMAND = PROJECTS / 'minigpt4_cli'
VLLM = PROJECTS / 'minigpt4_vllm'
TESTS = ROOT / 'tests'

# A module imports from its own subpackage and from those of earlier lines,
# never from one of the same line or of a later one. A subpackage is a folder
# here, or a module next to the folders.
IMPORT_ORDER = (
    ('utils',),
    ('prompts',),
    ('images',),
    ('weights',),
    ('llm',),
    ('models', 'model_files'),
    ('generation',),
    ('loading',),
    ('actors',),
    ('endpoints',),
    ('chat', 'captioning', 'datasets'),
    ('data_tools',),
    ('evaluation',),
    ('harness', 'curation', 'explain'),
    ('engine',),
    ('convert', 'nano', 'reproduction', 'scaling'),
    ('terminal', 'serving'),
)
RANK = {
    subpackage: i
    for i, subpackages in enumerate(IMPORT_ORDER)
    for subpackage in subpackages
}
# Modules of the package itself. Every subpackage may import them, and they
# import no subpackage.
BASE_MODULES = {'compat', 'deprecated', 'registry'}
# The only import against the order, inside a function: mode='predict' of the
# model, which MMEngine's loops call, needs the generation API.
DOCUMENTED_EDGES = {('models.answering', 'generation')}
# Test modules below tests/SUBPACKAGE/ that test more than one module.
CROSS_MODULE_TESTS = {
    'test_actors/test_commands.py': 'the bytes of commands on actors',
    'test_actors/test_ray.py': 'commands on a cluster of two actors',
    'test_convert/test_transformers_serve.py': 'an export in a stock server',
    'test_curation/test_killed_runs.py': 'runs killed in each step',
    'test_data_tools/test_import_training.py': 'training on imported data',
    'test_engine/test_curated_data.py': 'stage 2 on the export of a curation',
    'test_engine/test_distributed.py': 'training on several ranks',
    'test_engine/test_hooks.py': 'the modules of engine/hooks in one run',
    'test_engine/test_old_runs.py': 'work dirs and configs of release 0.1',
    'test_engine/test_preference_training.py': 'runs of DPO',
    'test_engine/test_resume.py': 'training that continues from a checkpoint',
    'test_engine/test_stop.py': 'training that ends by a signal',
    'test_engine/test_warm_start.py': 'a hook in runs, resumed or on ranks',
    'test_models/test_placement.py': 'devices, types and shards of a model',
    'test_serving/test_http/test_evaluation_clients.py': 'other programs',
    'test_serving/test_review/test_browser.py': 'the review in a browser',
    'test_serving/test_web/test_browser.py': 'the web page in a browser',
    'test_vllm/test_serve.py': 'an export in a server of vLLM',
}


def module_files() -> list[Path]:
    """The Python files of the packages, without the copies for mim."""
    return sorted(
        path
        for package in (PACKAGE, COMMAND, VLLM)
        for path in package.rglob('*.py')
        if '.mim' not in path.parts
    )


def module_name(path: Path) -> str:
    """The dotted name of a module from its file."""
    parts = path.relative_to(PROJECTS).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in module_files()}


def import_statements(
    tree: ast.AST, in_functions: bool
) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements of a module, optionally those of functions."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif in_functions or not isinstance(node, functions):
            yield from import_statements(node, in_functions)


def imported_modules(name: str, in_functions: bool = True) -> set[str]:
    """The modules of the packages that a module imports by name."""
    path = MODULES[name]
    package = name.split('.')
    if path.name != '__init__.py':
        package = package[:-1]
    found = set()
    tree = ast.parse(path.read_text('utf-8'))
    for node in import_statements(tree, in_functions):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1]
            stem = [*(base if node.level else [])]
            stem += (node.module or '').split('.') if node.module else []
            names = ['.'.join([*stem, alias.name]) for alias in node.names]
        for imported in names:
            # `from .subpackage import name`: the name is a module or a member
            for candidate in (imported, imported.rpartition('.')[0]):
                if candidate in MODULES:
                    found.add(candidate)
                    break
    return found - {name}


def subpackage_of(name: str) -> str | None:
    """The subpackage of a module; None outside of the subpackages."""
    parts = name.split('.')
    return parts[1] if parts[0] == 'minigpt4' and len(parts) > 1 else None


def edges_against_the_order() -> set[tuple[str, str]]:
    """(module without the package's name, what it must not import)."""
    found = set()
    for name in MODULES:
        subpackage = subpackage_of(name)
        if subpackage is None:  # minigpt4 itself imports any subpackage
            continue
        for imported in imported_modules(name):
            other = subpackage_of(imported)
            if imported.startswith(('minigpt4_cli', 'minigpt4_vllm')):
                other = imported.partition('.')[0]
            if other is None or other == subpackage or other in BASE_MODULES:
                continue
            if (
                subpackage not in RANK
                or RANK.get(other, len(RANK)) >= RANK[subpackage]
            ):
                found.add((name.partition('.')[2], other))
    return found


def import_circles() -> list[list[str]]:
    """Groups of modules that import each other at module level.

    Tarjan's algorithm: the strongly connected components of two or more
    modules of the import graph.
    """
    graph = {name: imported_modules(name, False) for name in MODULES}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def search(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for imported in sorted(graph[name]):
            if imported not in index:
                search(imported)
                low[name] = min(low[name], low[imported])
            elif imported in stack:
                low[name] = min(low[name], index[imported])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                circles.append(sorted(group))

    for name in graph:
        if name not in index:
            search(name)
    return sorted(circles)


def test_every_room_is_in_the_order():
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    modules = {path.stem for path in PACKAGE.glob('*.py')} - {'__init__'}
    subpackages = (folders - {'.mim'}) | modules - BASE_MODULES
    assert subpackages == set(RANK), (
        'IMPORT_ORDER of this file and the subpackages differ; add a new one '
        'there, and to the table of CONTRIBUTING.md'
    )


def test_contributing_lists_the_subpackages_in_the_import_order():
    text = (ROOT / 'CONTRIBUTING.md').read_text('utf-8')
    table = text.split('| Subpackage | Contains |')[1].split('\n\n')[0]
    listed = re.findall(r'^\| `(\w+)/` \|', table, re.M)
    folders = [
        subpackage for subpackage in RANK if (PACKAGE / subpackage).is_dir()
    ]
    assert listed == folders


def test_imports_between_rooms_go_one_way():
    found = edges_against_the_order()
    new = sorted(found - DOCUMENTED_EDGES)
    assert not new, (
        f'imports against the order of the subpackages: {new}; '
        'see IMPORT_ORDER in tests/test_layout.py'
    )
    assert found >= DOCUMENTED_EDGES, 'remove what is no longer imported'


def test_no_import_circle():
    assert not import_circles()


def test_an_import_circle_is_found(tmp_path, monkeypatch):
    for name, text in (('a', 'from . import b'), ('b', 'from .a import x')):
        (tmp_path / f'{name}.py').write_text(text)
    modules = {f'subpackage.{name}': tmp_path / f'{name}.py' for name in 'ab'}
    monkeypatch.setitem(globals(), 'MODULES', modules)
    assert import_circles() == [['subpackage.a', 'subpackage.b']]
    (tmp_path / 'a.py').write_text('def f():\n    from . import b')
    assert import_circles() == []


def test_test_files_mirror_modules():
    missing = []
    for path in sorted(TESTS.glob('test_*/**/test_*.py')):
        relative = path.relative_to(TESTS)
        folders = [part.removeprefix('test_') for part in relative.parts]
        subpackage, *inner = folders
        base = {'cli': COMMAND, 'vllm': VLLM}.get(
            subpackage, PACKAGE / subpackage
        )
        if not base.joinpath(*inner).is_file():
            missing.append(relative.as_posix())
    new = sorted(set(missing) - set(CROSS_MODULE_TESTS))
    assert not new, (
        f'{new} mirror no module; name a test file after its module '
        '(tests/test_SUBPACKAGE/test_MODULE.py), or add it to '
        'CROSS_MODULE_TESTS with what it tests'
    )
    gone = sorted(set(CROSS_MODULE_TESTS) - set(missing))
    assert not gone, f'delete from CROSS_MODULE_TESTS: {gone}'
