# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The check that a release is prepared: version, date, changelog."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / '.github' / 'release_notes.py'
CHANGELOG = """# Changelog

## [Unreleased]
{unreleased}
## [0.2.0]{date}

### Added

- A thing.

## [0.1.0] - 2026-01-01

- Another thing.
"""


@pytest.fixture
def repository(tmp_path):
    """A function that writes a repository and runs the script in it."""

    def run(version='0.2.0', unreleased='', date=' - 2026-12-01'):
        package = tmp_path / 'projects' / 'minigpt4'
        package.mkdir(parents=True, exist_ok=True)
        (package / '__init__.py').write_text(f"__version__ = '{version}'\n")
        text = CHANGELOG.format(unreleased=unreleased, date=date)
        (tmp_path / 'CHANGELOG.md').write_text(text)
        return subprocess.run(
            [sys.executable, str(SCRIPT), 'v0.2.0', str(tmp_path)],
            capture_output=True,
            text=True,
        )

    return run


def test_notes_are_the_section_of_the_version(repository):
    result = repository()
    assert result.returncode == 0, result.stderr
    assert result.stdout == '### Added\n\n- A thing.\n'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'version': '0.1.0'}, 'has version 0.1.0, expected 0.2.0'),
        ({'date': ''}, 'has no heading "## [0.2.0] - YYYY-MM-DD"'),
        ({'unreleased': '\n- A new thing.\n'}, 'needs an empty section'),
    ],
)
def test_unprepared_release_is_refused(repository, changes, message):
    result = repository(**changes)
    assert result.returncode == 1
    assert message in result.stderr
