# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The language of the repository: no private words for the field's terms.

``python tests/test_language.py [PATH ...]`` prints every word that these
files and folders (default: SCANNED) should not use, with its line.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {'.css', '.html', '.md', '.py', '.sh', '.toml', '.yml'}

# Files and folders whose text is checked.
SCANNED = [
    '.github',
    '.pre-commit-config.yaml',
    'CHANGELOG.md',
    'CONTRIBUTING.md',
    'README.md',
    'benchmarks',
    'configs',
    'docs',
    'mkdocs.yml',
    'model-index.yml',
    'projects',
    'pyproject.toml',
    'setup.py',
    'tools',
]
# Folders of tests, in which only the names of tests are checked.
SCANNED_TEST_NAMES = ['tests']


class Word(NamedTuple):
    """A word or phrase that the project does not use.

    Attributes:
        pattern: Regular expression, lower case; a blank matches any white
            space, also a line end with the ``#`` of a comment.
        instead: What to write.
    """

    pattern: str
    instead: str


WORDS = [
    Word('eyes?', 'vision encoder'),
    Word('voices?', 'LLM'),
    Word('frozen half|half of seeing', 'vision encoder and Q-Former'),
    Word('speaks?|spoke|spoken', 'generates, answers'),
    Word('said', 'stated, generated, cached'),
    Word('tells|told', 'states, reports; tells apart: distinguishes'),
    Word('hears?|heard', 'receives'),
    Word('pictures?', 'image'),
    Word('lanes?', 'data worker'),
    Word('doors?', 'lock, queue, entry point'),
    Word('guests?|visits?|visitors?', 'session, client'),
    Word('strangers?', 'other clients, new readers'),
    Word('somebody|nobody', 'a client, a user, no request'),
    Word('mends?|mended|mending', 'repair, fix'),
    Word('brings?|brought', 'download, load, contain, install'),
    Word('wanted', 'expected, requested, required'),
    Word('wished|wishes', 'optional, requested'),
    Word('foreign(?! keys?)', 'other, unsupported'),
    Word('beside', 'next to, together with'),
    Word('anew', 'again'),
    Word('for ever', 'indefinitely'),
    Word('at once', 'immediately, or: at the same time, concurrent'),
    Word('by turns', 'alternately'),
    Word('till', 'until'),
    Word('comes? and goe?s?', 'join and leave the batch'),
    Word('lies', 'is located, is in'),
    Word('lie (?:in|on|at|under|there|next)', 'is located, is in'),
    Word('lets? go', 'release, drop'),
    Word('laid on', 'composited on'),
    Word('left out|leaves? out|leaving out', 'omitted, skipped'),
    Word('whole or not at all', 'completely or not at all'),
    Word('stands? (?:in|at|on|there|before|behind|where)', 'is, is listed'),
    Word('re-stated', 'reimplemented'),
]
_SPACE = r'[\s#]+'
_PATTERN = re.compile(
    '|'.join(
        rf'(?P<w{i}>\b(?:{word.pattern.replace(" ", _SPACE)})\b)'
        for i, word in enumerate(WORDS)
    )
)


class Allowed(NamedTuple):
    """A use of a word that is right.

    Attributes:
        path: The file.
        text: A part of the line in which the word is.
        reason: Why it may stay.
    """

    path: str
    text: str
    reason: str


ALLOWED = [
    Allowed(
        'projects/minigpt4/nano/wordings.py',
        'picture',
        'a word of users in the questions for the nano LLM',
    ),
    Allowed(
        'projects/minigpt4/evaluation/short_answers.py',
        "shan't she'd've",
        'a contraction in the table of VQAv2',
    ),
    Allowed(
        'projects/minigpt4/evaluation/short_answers.py',
        "somebody'll somebody's",
        'a contraction in the table of VQAv2',
    ),
    Allowed(
        'projects/minigpt4/evaluation/short_answers.py',
        'return words |',
        'a contraction in the table of VQAv2',
    ),
    Allowed(
        'projects/minigpt4_cli/doctor_report.py',
        "'wanted'",
        'a key of the JSON of 0.1',
    ),
    Allowed(
        'projects/minigpt4_cli/doctor_report.py',
        "'mend'",
        'a key of the JSON of 0.1',
    ),
    Allowed('CHANGELOG.md', '`mend:`', 'the output of 0.1'),
    Allowed('CHANGELOG.md', '`wanted`', 'a JSON key of 0.1'),
    Allowed(
        'docs/data.md', 'Two white cups stand on', 'a caption of the example'
    ),
    Allowed('benchmarks/plot.py', "'re-stated'", 'the word of older results'),
    Allowed(
        'projects/minigpt4/data_tools/caption_prompts.py',
        'Please provide a detailed description of the picture',
        'a prompt of the official code',
    ),
    Allowed(
        'projects/minigpt4/data_tools/caption_prompts.py',
        'Offer a succinct explanation of the picture presented',
        'a prompt of LLaVA',
    ),
    Allowed(
        'projects/minigpt4/data_tools/caption_prompts.py',
        'Relay a brief, clear account of the picture shown',
        'a prompt of LLaVA',
    ),
    Allowed(
        'projects/minigpt4/data_tools/caption_prompts.py',
        'Write a terse but informative summary of the picture',
        'a prompt of LLaVA',
    ),
    Allowed(
        'benchmarks/mini_prop.py',
        'Please provide a detailed description of the picture.',
        'a prompt of the official code',
    ),
    Allowed(
        'configs/minigpt4/_base_/stage2.py',
        'Please provide a detailed description of the picture.',
        'a prompt of the official code',
    ),
    Allowed(
        'projects/minigpt4/nano/grammar.py',
        'Please provide a detailed description of the picture.',
        'a prompt of the official code',
    ),
    Allowed(
        'projects/minigpt4/deprecated.py',
        "'engine.picture'",
        'a module name of version 0.1',
    ),
    Allowed(
        'projects/minigpt4/deprecated.py',
        "'inference.web.visit'",
        'a module name of version 0.1',
    ),
    Allowed(
        'tools/draw_examples.py',
        'What to bring:',
        'text inside of an example image',
    ),
]


class Found(NamedTuple):
    """A word that should not be used.

    Attributes:
        path: The file, relative to the repository.
        line: Line number, from 1.
        text: The line, stripped.
        word: The word as it is written there, in lower case.
        instead: What to write.
    """

    path: str
    line: int
    text: str
    word: str
    instead: str

    def __str__(self) -> str:
        return (
            f'{self.path}:{self.line}: "{self.word}"; write: {self.instead}'
            f'\n    {self.text}'
        )


def words_of(text: str) -> str:
    """Text in lower case, with identifiers split into their words."""
    text = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', text)
    return text.replace('_', ' ').lower()


def find(text: str, path: str = '') -> Iterator[Found]:
    """Every word of a text that should not be used."""
    lines = text.splitlines()
    words = '\n'.join(map(words_of, lines))
    for match in _PATTERN.finditer(words):
        i = words.count('\n', 0, match.start())
        word = WORDS[int(match.lastgroup[1:])]
        found = ' '.join(re.split(_SPACE, match[0]))
        yield Found(path, i + 1, lines[i].strip(), found, word.instead)


def files_of(names: list[str]) -> Iterator[Path]:
    """The text files of files and folders of the repository."""
    for name in names:
        path = ROOT / name
        if not path.exists():
            raise ValueError(f'{name} does not exist; remove it from the list')
        files = sorted(path.rglob('*')) if path.is_dir() else [path]
        for file in files:
            hidden = {'.mim', '__pycache__'} & set(file.parts)
            if file.is_file() and not hidden:
                if file.suffix in SUFFIXES or file == path:
                    yield file


def scan(names: list[str]) -> list[Found]:
    """Words that files should not use, without the allowed ones."""
    found = []
    for file in files_of(names):
        path = file.relative_to(ROOT).as_posix()
        for item in find(file.read_text('utf-8'), path):
            if not any(
                allowed.path == path and allowed.text in item.text
                for allowed in ALLOWED
            ):
                found.append(item)
    return found


def test_the_text_uses_the_terms_of_the_project():
    found = scan(SCANNED)
    assert not found, '\n'.join(
        [
            f'{len(found)} words that the project does not use (glossary: '
            'CONTRIBUTING.md; a right use goes into ALLOWED, with a reason):',
            *map(str, found),
        ]
    )


def test_names_of_tests_use_the_terms_of_the_project():
    found = []
    for file in files_of(SCANNED_TEST_NAMES):
        path = file.relative_to(ROOT).as_posix()
        text = file.read_text('utf-8')
        for i, line in enumerate(text.splitlines(), 1):
            if name := re.match(r'\s*(?:async )?def (test_\w+)', line):
                found += [
                    item._replace(line=i) for item in find(name[1], path)
                ]
    assert not found, '\n'.join(map(str, found))


def test_every_allowed_use_exists():
    for path, text, reason in ALLOWED:
        assert reason
        lines = (ROOT / path).read_text('utf-8').splitlines()
        assert any(text in line and list(find(line)) for line in lines), (
            f'delete from ALLOWED: {path}, {text!r}'
        )


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('class WebVisit:', ['visit']),
        ('the_frozen_half = 1', ['frozen half']),
        ('# waits for\n# ever\n', ['for ever']),
        ('Pictures that nobody reads', ['pictures', 'nobody']),
        ('a foreign key of a table', []),
        ('outlanes, believes, revoiced, untilled', []),
    ],
)
def test_words_are_found_in_text_and_identifiers(text, words):
    assert [item.word for item in find(text)] == words


if __name__ == '__main__':
    results = scan(sys.argv[1:] or SCANNED)
    print(*results, f'{len(results)} words', sep='\n')
    sys.exit(bool(results))
