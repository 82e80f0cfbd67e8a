# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the results of a check depend on: options, model, files.

A check that was stopped is only continued if all of it is the same.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..datasets.remote_shards import shown
from ..prompts import Turn
from .data_items import DataItem, ImageRef
from .find_data import DataPart, FoundData
from .prompt_tokens import PromptTokens, prompt_or_error


def describe_check(
    args: argparse.Namespace,
    prompts: PromptTokens,
    found: FoundData,
    against: FoundData | None,
) -> dict[str, Any]:
    """Describe a check, for a comparison with another one.

    Args:
        args: The options of :mod:`minigpt4_cli.data_check`.
        prompts: Makes the prompts whose lengths are measured.
        found: The data.
        against: The data that they are compared to.

    Returns:
        Content for JSON. Images of records are not in it.
    """
    from .. import __version__

    others = () if against is None else against.parts
    return dict(
        version=__version__,
        perceptual=args.near > 0,
        images=args.images and os.path.abspath(args.images),
        model=_describe_prompts(prompts),
        data=[_describe_part(part) for part in found.parts],
        against=[_describe_part(part) for part in others],
    )


def _describe_prompts(prompts: PromptTokens) -> list[Any]:
    """Name, file, sizes, and the tokens of a record."""
    turns = (Turn('', 'An example.'),)
    example, _ = prompt_or_error(
        prompts, DataItem('', 'example', (ImageRef(''),), turns)
    )
    return [
        prompts.name,
        _file_state(prompts.name),
        prompts.max_text_length,
        prompts.context_length,
        example and [*example.ids],
    ]


def _describe_part(part: DataPart) -> list[Any]:
    files = [*part.shards] if part.shards else [str(part.path)]
    states = [
        None if file in part.remote else _file_state(file) for file in files
    ]
    content: list[Any] = [str(path) for path in part.images]
    if part.photos is not None:
        content = [
            (str(photo.file), *photo.captions)
            for photo in (*part.photos.train, *part.photos.test)
        ]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return [
        part.name,
        part.held_out,
        digest,
        [*zip(map(shown, files), states)],
    ]


def _file_state(path: 'str | Path') -> tuple[int, int] | None:
    """Size and time of the last change; None if there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns
