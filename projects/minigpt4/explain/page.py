# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page of an explanation: one HTML file without network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.atomic import write_atomically
from ..utils.output_paths import check_output_file
from ..utils.regular_files import read_regular
from .explanation import FORMAT

_DATA = '<script type="application/json" id="data">'
_MARK = b'"format": "' + FORMAT.encode() + b'"'


def write_page(data: Mapping[str, Any], thumbnail: str, path: Path) -> None:
    """Write the page; a failure leaves the old file.

    Args:
        data: :meth:`~.explanation.Explanation.to_json`, with ``image``,
            ``model`` and ``prompt`` for the head of the page.
        thumbnail: The image, as a data URL.
        path: The HTML file.

    Raises:
        OSError: It cannot be written.
    """
    page = Path(__file__).with_suffix('.html').read_text('utf-8')
    head, start, tail = page.partition(_DATA + '{}')
    # JSON without a tag that could end the script element
    text = json.dumps({**data, 'thumbnail': thumbnail}, ensure_ascii=False)
    complete = (
        head + start[:-2] + text.replace('<', '\\u003c') + tail
    ).encode('utf-8', 'backslashreplace')
    write_atomically(path, complete)


def write_json(data: Mapping[str, Any], path: Path) -> None:
    """Write the numbers as JSON.

    Raises:
        OSError: It cannot be written.
    """
    text = json.dumps(data, ensure_ascii=False)
    write_atomically(path, text.encode('utf-8', 'backslashreplace') + b'\n')


def check_output(path: Path, option: str) -> None:
    """Refuse a file that could not be written at the end of the run.

    Args:
        path: The HTML or JSON file.
        option: The option that names it, for the error.

    Raises:
        OSError: Its folder cannot be written.
        ValueError: It exists, and is no explanation.
    """
    check_output_file(path)
    if path.exists() and _MARK not in read_regular(path):
        raise ValueError(
            f'{path} exists and is no explanation; give another name as '
            f'{option}.'
        )
