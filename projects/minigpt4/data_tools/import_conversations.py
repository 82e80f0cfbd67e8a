# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read records that have a layout of stage 2 already, and narratives."""

from collections.abc import Iterator
from pathlib import Path

from ..datasets.json_stream import stream_json
from ..datasets.json_values import DuplicateKey
from .import_items import Item, ReadOptions, invalid_item

# of Localized Narratives: the time and the place of each word
_TRACES = ('timed_caption', 'traces')


def read_records(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read LLaVA's, MMPretrain's and flat records: a list or lines."""
    for entry in stream_json(path):
        if entry.key not in (None, 'annotations', 'data'):
            continue
        yield invalid_item(path, entry) or Item(
            path,
            entry.number,
            entry.value,
            unit='line' if entry.is_line else 'record',
        )


def read_narratives(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read Localized Narratives: a caption in each line, with its traces.

    The traces and the recording are not kept. ``image_id`` names the image:
    a number of COCO, or a file name without its suffix.
    """
    files = [path] if path.is_file() else sorted(path.glob('*.jsonl*'))
    for file in files:
        for entry in stream_json(file):
            if invalid := invalid_item(file, entry):
                yield invalid
                continue
            record = entry.value
            if not isinstance(record, DuplicateKey):
                record = {
                    key: value
                    for key, value in record.items()
                    if key not in _TRACES and not key.endswith('_recording')
                }
            yield Item(file, entry.number, record, unit='line')
