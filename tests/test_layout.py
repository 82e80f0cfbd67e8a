# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The rooms of the package: the import order, and tests named by module."""

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

# A module imports from its own room and from rooms of earlier lines, never
# from a room of the same line or of a later one. A room is a folder, or a
# module next to the folders.
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
    ('chat', 'captioning', 'datasets', 'endpoints'),
    ('data_tools',),
    ('evaluation',),
    ('harness', 'curation', 'explain'),
    ('engine',),
    ('convert', 'nano', 'reproduction'),
    ('terminal', 'serving'),
)
RANK = {room: i for i, rooms in enumerate(IMPORT_ORDER) for room in rooms}
# Modules of the package itself. Every room may import them, and they import
# no room.
BASE_MODULES = {'compat', 'deprecated', 'registry'}
# The only import against the order, inside a function: mode='predict' of the
# model, which MMEngine's loops call, needs the generation API.
DOCUMENTED_EDGES = {('models.answering', 'generation')}
# Test modules below tests/ROOM/ that test more than one module.
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
            # `from .room import name`: the name is a module or a member
            for candidate in (imported, imported.rpartition('.')[0]):
                if candidate in MODULES:
                    found.add(candidate)
                    break
    return found - {name}


def room_of(name: str) -> str | None:
    """The room of a module; None outside of the rooms."""
    parts = name.split('.')
    return parts[1] if parts[0] == 'minigpt4' and len(parts) > 1 else None


def edges_against_the_order() -> set[tuple[str, str]]:
    """(module without the package's name, room that it must not import)."""
    found = set()
    for name in MODULES:
        room = room_of(name)
        if room is None:  # minigpt4 itself imports any room
            continue
        for imported in imported_modules(name):
            other = room_of(imported)
            if imported.startswith(('minigpt4_cli', 'minigpt4_vllm')):
                other = imported.partition('.')[0]
            if other is None or other == room or other in BASE_MODULES:
                continue
            if room not in RANK or RANK.get(other, len(RANK)) >= RANK[room]:
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
    rooms = (folders - {'.mim'}) | modules - BASE_MODULES
    assert rooms == set(RANK), (
        'IMPORT_ORDER of this file and the rooms differ; add a new room '
        'there, and to the tour of CONTRIBUTING.md'
    )


def test_the_tour_lists_the_rooms_in_the_import_order():
    text = (ROOT / 'CONTRIBUTING.md').read_text('utf-8')
    table = text.split('| Room | Contains |')[1].split('\n\n')[0]
    listed = re.findall(r'^\| `(\w+)/` \|', table, re.M)
    folders = [room for room in RANK if (PACKAGE / room).is_dir()]
    assert listed == folders


def test_imports_between_rooms_go_one_way():
    found = edges_against_the_order()
    new = sorted(found - DOCUMENTED_EDGES)
    assert not new, (
        f'imports against the order of the rooms: {new}; '
        'see IMPORT_ORDER in tests/test_layout.py'
    )
    assert found >= DOCUMENTED_EDGES, 'remove what is no longer imported'


def test_no_import_circle():
    assert not import_circles()


def test_an_import_circle_is_found(tmp_path, monkeypatch):
    for name, text in (('a', 'from . import b'), ('b', 'from .a import x')):
        (tmp_path / f'{name}.py').write_text(text)
    modules = {f'room.{name}': tmp_path / f'{name}.py' for name in 'ab'}
    monkeypatch.setitem(globals(), 'MODULES', modules)
    assert import_circles() == [['room.a', 'room.b']]
    (tmp_path / 'a.py').write_text('def f():\n    from . import b')
    assert import_circles() == []


def test_test_files_mirror_modules():
    missing = []
    for path in sorted(TESTS.glob('test_*/**/test_*.py')):
        relative = path.relative_to(TESTS)
        folders = [part.removeprefix('test_') for part in relative.parts]
        room, *inner = folders
        base = {'cli': COMMAND, 'vllm': VLLM}.get(room, PACKAGE / room)
        if not base.joinpath(*inner).is_file():
            missing.append(relative.as_posix())
    new = sorted(set(missing) - set(CROSS_MODULE_TESTS))
    assert not new, (
        f'{new} mirror no module; name a test file after its module '
        '(tests/test_ROOM/test_MODULE.py), or add it to CROSS_MODULE_TESTS '
        'with what it tests'
    )
    gone = sorted(set(CROSS_MODULE_TESTS) - set(missing))
    assert not gone, f'delete from CROSS_MODULE_TESTS: {gone}'
