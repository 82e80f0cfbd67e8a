# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Group the files of a shard into samples by the name before the suffix."""

import re
from collections.abc import Iterable, Iterator

from ..utils.errors import printable
from ..utils.sample_errors import NO_IMAGE, SampleError
from .tar_reader import Report

IMAGE_SUFFIXES = (
    'jpg', 'jpeg', 'png', 'webp', 'bmp', 'gif', 'tif', 'tiff', 'jfif', 'jp2',
    'avif', 'heic', 'heif',
)  # fmt: skip
_KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, 'json', 'txt')
# webdataset: the key ends at the first dot of the file's name
_FIRST_DOT = re.compile(r'((?:.*/|)[^./]+)[.]([^/]*)\Z', re.DOTALL)
# metadata of a shard, e.g. __MACOSX__
_SHARD_METADATA = re.compile(r'__[^/]*__(\Z|/)')
# of Windows; files of macOS are named ._NAME (AppleDouble)
_SYSTEM_FILES = ('Thumbs.db', 'ehthumbs.db', 'desktop.ini')
# files of one key that are collected before they are split at the last dot
_MAX_FILES = 64


class _Group:
    """Files with the same key, in their order."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.files: list[tuple[str, bytes]] = []
        self.has_known_suffix = False  # without a dot

    def add(self, suffix: str, data: bytes) -> None:
        self.files.append((suffix, data))
        self.has_known_suffix |= suffix in _KNOWN_SUFFIXES

    @property
    def key_has_dot(self) -> bool:
        """Whether the names have a dot that belongs to the key."""
        return not self.has_known_suffix and any(
            suffix.rpartition('.')[2] in _KNOWN_SUFFIXES
            for suffix, _ in self.files
        )


def group_samples(
    members: Iterable[tuple[str, bytes]], shard: str, report: Report
) -> Iterator[dict]:
    """Group the members of a tar into samples.

    As in webdataset, consecutive files whose names agree up to the first dot
    are a sample (``7.jpg``, ``7.json``, ``7.mask.png``). If no file of such a
    group has a known suffix (``22.05.jpg``, ``22.05.json``, ``22.06.jpg``),
    the names are split at the last dot. One image and one text with names of
    letters between the dots are fields of one sample (``7.input.jpg``,
    ``7.output.txt``).

    Args:
        members: Names and bytes.
        shard: Name of the shard.
        report: Function of a kind and a message, called for each file that
            is not used.

    Yields:
        Bytes by suffix (in lower case), and ``__key__`` and ``__url__``.
    """
    group = _Group('')
    finished: set[str] = set()
    for name, data in members:
        base = name.rpartition('/')[2]
        if (
            _SHARD_METADATA.match(name)
            or base.startswith('._')
            or base in _SYSTEM_FILES
        ):
            continue
        split = _FIRST_DOT.match(name)
        if split is None:
            suffix = base.rpartition('.')[2].lower()
            if '.' in base and suffix in _KNOWN_SUFFIXES:
                report('unread', f'{name} has no name before its first dot.')
            continue
        key, suffix = split[1], split[2].lower()
        if key != group.key:
            yield from _make_samples(group, shard, report)
            finished.add(group.key)
            group = _Group(key)
            if key in finished and suffix in ('json', 'txt'):
                report(
                    'unread',
                    f'{name} does not follow the other files of {key}: pack '
                    'the files of a sample one after the other (tar '
                    '--sort=name).',
                )
        if suffix.startswith('__'):
            continue  # reserved for __key__ and __url__
        group.add(suffix, data)
        if len(group.files) >= _MAX_FILES and group.key_has_dot:
            *complete, last = _split_at_last_dot(group)
            for each in complete:
                yield _make_sample(each, shard, report)
            group = _Group(key)
            for suffix, data in last.files:
                group.add(f'{last.key[len(key) + 1 :]}.{suffix}', data)
    yield from _make_samples(group, shard, report)


def _make_samples(group: _Group, shard: str, report: Report) -> Iterator[dict]:
    if group.key_has_dot and _has_fields(group):
        fields = _Group(group.key)
        for name, data in group.files:
            fields.add(name.rpartition('.')[2], data)
        yield _make_sample(fields, shard, report)
    elif group.key_has_dot:
        for each in _split_at_last_dot(group):
            yield _make_sample(each, shard, report)
    elif group.files:
        yield _make_sample(group, shard, report)


def _has_fields(group: _Group) -> bool:
    """Whether the names are a key, the name of a field and a suffix.

    So are those that ``ShardWriter`` of webdataset makes of the fields
    ``input.jpg`` and ``output.txt``.
    """
    parts = [name.rpartition('.') for name, _ in group.files]
    images = [stem for stem, _, suffix in parts if suffix in IMAGE_SUFFIXES]
    texts = [stem for stem, _, suffix in parts if suffix in ('json', 'txt')]
    return (
        len(images) == len(texts) == 1
        and images != texts
        and all(name.replace('_', '').isalpha() for name in images + texts)
    )


def _split_at_last_dot(group: _Group) -> list[_Group]:
    groups: list[_Group] = []
    for name, data in group.files:
        stem, _, suffix = name.rpartition('.')
        key = f'{group.key}.{stem}' if stem else group.key
        if not groups or key != groups[-1].key:
            groups.append(_Group(key))
        groups[-1].add(suffix, data)
    return groups


def _make_sample(group: _Group, shard: str, report: Report) -> dict:
    sample: dict = dict(__key__=group.key, __url__=shard)
    for suffix, data in group.files:
        if suffix in sample:
            report(
                'duplicate',
                f'{group.key}.{suffix} is a duplicate: the first is used.',
            )
        else:
            sample[suffix] = data
    return sample


def image_bytes(files: dict) -> bytes:
    """Return the image of a sample: the first of ``IMAGE_SUFFIXES``.

    Args:
        files: Bytes of the sample's files by suffix.

    Raises:
        SampleError: The sample has no image.
    """
    for suffix in IMAGE_SUFFIXES:
        if suffix in files:
            return files[suffix]
    suffixes = sorted(name for name in files if not name.startswith('__'))
    raise SampleError(
        f'it has {printable(str(suffixes))} but no image '
        f'({", ".join(IMAGE_SUFFIXES)}).',
        NO_IMAGE,
    )
