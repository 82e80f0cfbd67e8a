# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Print the release notes of a version; fail if the release is not prepared.

    python .github/release_notes.py VERSION [FOLDER OF THE REPOSITORY]

The version has to be ``__version__`` of the package, and CHANGELOG.md has to
have a dated section with at least one entry, below an empty *Unreleased*.
"""

import re
import sys
from pathlib import Path

SECTION = r'^## \[{}\]{}\n(.*?)(?=^## |\Z)'


def release_notes(root: Path, version: str) -> str:
    """The section of a version in CHANGELOG.md.

    Args:
        root: Folder of the repository.
        version: Without ``v``, as in ``0.2.0``.

    Raises:
        ValueError: The release is not prepared.
    """
    init = root / 'projects' / 'minigpt4' / '__init__.py'
    found = re.search(r"^__version__ = '(.*)'$", init.read_text('utf-8'), re.M)
    if found is None or found[1] != version:
        raise ValueError(
            f'{init} has version {found and found[1]}, expected {version}; '
            'set __version__ to the version of the release.'
        )
    changelog = (root / 'CHANGELOG.md').read_text('utf-8')
    heading = re.escape(version), r' - \d{4}-\d{2}-\d{2}'
    section = re.search(SECTION.format(*heading), changelog, re.M | re.S)
    if section is None:
        raise ValueError(
            f'CHANGELOG.md has no heading "## [{version}] - YYYY-MM-DD"; '
            'rename [Unreleased] and add the date of the release.'
        )
    unreleased = re.search(
        SECTION.format('Unreleased', ''), changelog, re.M | re.S
    )
    if unreleased is None or '- ' in unreleased[1]:
        raise ValueError(
            'CHANGELOG.md needs an empty section "## [Unreleased]" above '
            'the section of the release.'
        )
    notes = section[1].strip()
    if '- ' not in notes:
        raise ValueError(f'the section of {version} in CHANGELOG.md is empty.')
    return notes


if __name__ == '__main__':
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    default = Path(__file__).resolve().parents[1]
    folder = Path(sys.argv[2]) if len(sys.argv) == 3 else default
    try:
        print(release_notes(folder, sys.argv[1].removeprefix('v')))
    except ValueError as error:
        sys.exit(f'error: {error}')
