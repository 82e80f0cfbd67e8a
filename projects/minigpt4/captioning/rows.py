# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A row of the answers, and the line of JSON that it is in the file."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from ..utils.errors import printable

_HEAD = b'{"image": '  # how every row begins


@dataclass(frozen=True)
class CaptionRow:
    """One answer about one picture.

    Attributes:
        image: The picture, as the user named it.
        prompt: The question.
        caption: The answer; None where there is none.
        error: Why there is none.
        finished: Whether the answer ended by itself; False where it was cut
            at ``max_new_tokens``.
        tokens: Its length.
        bytes: Size of the picture's file; None where it cannot be read.
        modified_ns: When that file was last changed.
        model: Name of the model, or of its config.
        weights: Digest of the checkpoint; None for the published one.
        settings: Of generation, where they are not the model's own.
    """

    image: str
    prompt: str
    caption: str | None = None
    error: str | None = None
    finished: bool | None = None
    tokens: int | None = None
    bytes: int | None = None
    modified_ns: int | None = None
    model: str = ''
    weights: str | None = None
    settings: dict | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes two rows answers to the same question."""
        return os.path.abspath(self.image), self.prompt

    @property
    def made_by(self) -> dict[str, Any]:
        """What the answer depends on besides picture and question."""
        return dict(
            model=self.model, weights=self.weights, settings=self.settings
        )


def encode_row(row: CaptionRow) -> bytes:
    """The line of a row."""
    fields = asdict(row)
    try:
        return json.dumps(fields, ensure_ascii=False).encode() + b'\n'
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return json.dumps(fields).encode() + b'\n'


# field: its types in JSON
_TYPES: dict[str, tuple[type, ...]] = dict(
    image=(str,),
    prompt=(str,),
    caption=(str, type(None)),
    error=(str, type(None)),
    finished=(bool, type(None)),
    tokens=(int, type(None)),
    bytes=(int, type(None)),
    modified_ns=(int, type(None)),
    model=(str,),
    weights=(str, type(None)),
    settings=(dict, type(None)),
)


def decode_row(line: bytes) -> CaptionRow | None:
    """A row of a line; None where it is none."""
    try:
        fields = json.loads(line)
        row = CaptionRow(**fields)
    except (TypeError, ValueError, RecursionError):
        return None
    typed = all(type(fields[name]) in _TYPES[name] for name in fields)
    answered = row.caption is not None or row.error is not None
    return row if typed and answered else None


def unknown_columns(line: bytes) -> str:
    """What is wrong with a line, where it has a row of another version."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return ''
    if not isinstance(fields, dict) or not {'image', 'prompt'} <= {*fields}:
        return ''
    unknown = [name for name in fields if name not in _TYPES]
    if not unknown:
        return ''
    names = printable(', '.join(unknown))[:200]
    return f', with columns that this version does not know: {names}'


def is_cut_off(line: bytes) -> bool:
    """Whether a last line is the beginning of a row of ours, or zeros."""
    line = line.rstrip(b'\0')
    return line.startswith(_HEAD) or _HEAD.startswith(line)
