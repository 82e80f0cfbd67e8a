# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What README and docs show exists, and answers what they say."""

import ast
import re
from pathlib import Path

import pytest

import minigpt4

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_python_of_the_readme_answers_what_it_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    block = re.search(r'```python\n(.*?)```', README, re.DOTALL)[1]
    names: dict = {}
    lines = block.splitlines()
    shown = 0
    for statement in ast.parse(block).body:
        code = ast.unparse(statement)
        after = lines[statement.end_lineno :][:1]
        if after and after[0].startswith('# {'):
            assert repr(eval(code, names)) == after[0].removeprefix('# ')
            shown += 1
        else:
            exec(code, names)
    assert shown == 2
    assert names['minigpt4'] is minigpt4


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text(encoding='utf-8')
    pattern = (
        r'(?<![\w/])((?:tools|configs|docs|tests|benchmarks|projects|'
        r'demo)/[\w./-]+\.(?:py|sh|md|yml|png|html))'
    )
    # configs that the docs tell the reader to write
    own = {f'configs/minigpt4/{x}.py' for x in ('stage1_mine', 'stage2_mine')}
    for name in set(re.findall(pattern, text)) - own:
        assert (ROOT / name).exists(), f'{page.name} names {name}'


def test_the_map_is_true():
    block = README.split('## Map')[1].split('```')[1]
    package = ROOT / 'projects' / 'minigpt4'
    for folder in ('models', 'datasets', 'engine', 'inference', 'nano'):
        for file in (package / folder).rglob('*.py'):
            if file.name != '__init__.py':
                assert file.name in block, f'{folder}/{file.name} is missing'
    real = {file.name for file in package.rglob('*.py')} | {
        file.name for file in (ROOT / 'tools').iterdir()
    }
    for name in re.findall(r'[\w]+\.(?:py|sh)\b', block):
        assert name in real, f'the map names {name}'


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert '<!-- ' not in page.read_text(encoding='utf-8'), page.name
