# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""README, CONTRIBUTING and docs: what they name exists and works."""

import ast
import json
import re
from pathlib import Path

import pytest

import minigpt4

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'projects' / 'minigpt4'
DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
CONTRIBUTING = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')


def section(text: str, title: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(
        rf'^## {re.escape(title)}$(.*?)(?=^## |\Z)', text, re.M | re.S
    )
    assert found, f'there is no heading "## {title}"'
    return found[1]


def first_cells(text: str) -> list[str]:
    """The first cell of each body row of the Markdown tables of a text."""
    rows = re.findall(r'^\|(.*)\|$', text, re.M)
    cells = [row.split('|')[0].strip() for row in rows]
    return [cell for i, cell in enumerate(cells) if is_body(cells, i)]


def is_body(cells: list[str], i: int) -> bool:
    """Whether a table row is neither the head nor the line below it."""
    ruler = re.compile(r'-+$')
    after = cells[i + 1] if i + 1 < len(cells) else ''
    return not ruler.match(cells[i]) and not ruler.match(after)


def test_python_of_the_readme_gives_the_printed_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    block = re.search(r'```python\n(.*?)```', README, re.DOTALL)[1]
    names: dict = {}
    lines = block.splitlines()
    compared = 0
    for statement in ast.parse(block).body:
        code = ast.unparse(statement)
        after = lines[statement.end_lineno :][:1]
        if after and after[0].startswith('# {'):
            assert repr(eval(code, names)) == after[0].removeprefix('# ')
            compared += 1
        else:
            exec(code, names)
    assert compared == 2
    assert names['minigpt4'] is minigpt4


def test_readme_is_short():
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text(encoding='utf-8')
    pattern = (
        r'(?<![\w/])((?:tools|configs|docs|tests|benchmarks|projects|'
        r'demo|\.github|\.ci)/[\w./-]+\.(?:py|sh|md|yml|png|html))'
    )
    # configs that the docs ask the reader to write
    own = {f'configs/minigpt4/{x}.py' for x in ('stage1_mine', 'stage2_mine')}
    own.add('tests/test_SUBPACKAGE/test_MODULE.py')  # a pattern of names
    for name in set(re.findall(pattern, text)) - own:
        assert (ROOT / name).exists(), f'{page.name} names {name}'


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    text = re.sub(
        r'^```.*?^```', '', page.read_text('utf-8'), flags=re.M | re.S
    )
    found = set()
    for line in re.findall(r'^#+ (.*)$', text, re.M):
        words = re.sub(r'[^\w\s-]', '', line).strip().lower()
        found.add(re.sub(r'[-\s]+', '-', words))
    return found


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text('utf-8')):
        if target.startswith(('http:', 'https:')):
            continue
        name, _, anchor = target.partition('#')
        file = page.parent / name if name else page
        assert file.exists(), f'{page.name} links {target}'
        if anchor:
            assert anchor in anchors_of(file), f'{page.name} links {target}'


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / 'mkdocs.yml').read_text('utf-8').split('nav:')[1]
    named = re.findall(r': (\w+\.md)$', navigation, re.M)
    assert sorted(named) == [page.name for page in DOCS]


def test_readme_links_every_page_of_the_docs():
    linked = set(re.findall(r'docs/(\w+\.md)', README))
    assert {page.name for page in DOCS} - {'index.md'} <= linked


def test_tour_names_every_room():
    subpackages = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    cells = first_cells(section(CONTRIBUTING, 'Tour'))
    named = {
        cell.strip('`/') for cell in cells if re.match(r'`\w+/`$', cell)
    } - {'benchmarks', 'docs', 'tests', 'tools'}
    assert named == subpackages


def test_change_table_names_existing_files():
    rows = re.findall(
        r'^\| (.*?) \| (.*) \|$',
        section(CONTRIBUTING, 'Where do I change X'),
        re.M,
    )
    files = 0
    for task, answer in rows[2:]:
        names = re.findall(r'`([\w./-]+(?:\.\w+|/))`', answer)
        assert names, f'"{task}" names no file'
        for name in names:
            files += 1
            assert (ROOT / name).exists() or (PACKAGE / name).exists(), (
                f'"{task}" names {name}, which does not exist'
            )
    assert files >= 20


def test_glossary_is_sorted_and_has_no_duplicates():
    terms = first_cells(section(CONTRIBUTING, 'Glossary'))
    assert len(terms) >= 40
    assert terms == sorted(set(terms), key=str.lower)


def test_figures_of_the_performance_page_are_stored_results():
    stored = set()
    for file in (ROOT / 'benchmarks' / 'results').glob('*.json'):
        for run in json.loads(file.read_text('utf-8')):
            for row in run['rows']:
                if row['ratio'] and row['guard_ok']:
                    figures = (row['ours'], row['peer'])
                    stored.add((row['name'], *(f'{x:.4g}' for x in figures)))
    page = (ROOT / 'docs' / 'performance.md').read_text('utf-8')
    rows = re.findall(r'\| `([^`]+)` \| (\S+) [^|]*\| ([^ ,]+),', page)
    assert len(rows) >= 30
    missing = sorted(set(rows) - stored)
    assert not missing, 'no run in benchmarks/results has these figures'


@pytest.mark.parametrize('page', DOCS, ids=lambda page: page.name)
def test_first_line_states_who_needs_the_page(page):
    title, blank, readers = page.read_text('utf-8').splitlines()[:3]
    assert title.startswith('# ') and not blank
    assert re.match(r'\*?(?:This page is for|For) ', readers), (
        'write below the title a line such as "*For users who train a model.*"'
    )


def test_pages_have_no_placeholders():
    for page in PAGES:
        assert '<!-- ' not in page.read_text(encoding='utf-8'), page.name
