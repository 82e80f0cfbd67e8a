# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tokenizer's files in an LLM's folder, as users have them."""

import json
from pathlib import Path
from typing import Any

from ..utils.regular_files import read_text

TOKENIZERS = ('tokenizer.model', 'tokenizer.json')


def added_tokens(folder: Path) -> dict[int, str]:
    """Added tokens by their id, from every file that may name them.

    Args:
        folder: The LLM's folder.

    Raises:
        ValueError: An id is no number, or the files contradict each other.
    """
    named: list[tuple[str, Any, Any]] = [
        ('added_tokens.json', token, i)
        for token, i in read_settings(folder, 'added_tokens.json').items()
    ]
    config = read_settings(folder, 'tokenizer_config.json')
    named += [
        ('tokenizer_config.json', token_text(token), i)
        for i, token in (config.get('added_tokens_decoder') or {}).items()
    ]
    listed = read_settings(folder, 'tokenizer.json').get('added_tokens') or []
    named += [('tokenizer.json', token_text(t), t.get('id')) for t in listed]
    added: dict[int, str] = {}
    for file, token, number in named:
        try:
            number = int(number)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{folder / file} gives the added token {token!r} the id '
                f'{number!r}; expected a number.'
            ) from error
        if not token:
            continue
        if added.setdefault(number, token) != token:
            raise ValueError(
                f'{folder / file} gives the id {number} to {token!r}, another '
                f'file of the folder to {added[number]!r}; correct the one '
                'that does not belong to the weights.'
            )
    return added


def token_text(token: Any) -> str:
    """The text of a special token, which may be an object; '' for none."""
    if isinstance(token, dict):
        token = token.get('content')
    return token if isinstance(token, str) else ''


def read_settings(folder: Path, name: str) -> dict:
    """A JSON object of the folder; an empty one where there is no file.

    Args:
        folder: The LLM's folder.
        name: The file.

    Raises:
        ValueError: It is no regular file or no JSON object.
    """
    if not (folder / name).is_file():
        return {}
    try:
        content = json.loads(read_text(folder / name))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{folder / name} is no JSON file ({error}); download it again.'
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{folder / name} is no JSON object; download it again.'
        )
    return content
