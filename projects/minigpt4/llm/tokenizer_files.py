# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the tokenizer files of an LLM folder: settings and added tokens."""

from pathlib import Path
from typing import Any

from ..utils.regular_files import read_regular
from ..weights.hf_folder_files import read_json

TOKENIZER_FILES = ('tokenizer.model', 'tokenizer.json')


def added_tokens(folder: Path) -> dict[int, str]:
    """Return the added tokens by id, from every file that may name them.

    Args:
        folder: The LLM's folder.

    Raises:
        ValueError: An id is no integer, or the files contradict each other.
    """
    entries: list[tuple[str, Any, Any]] = [
        ('added_tokens.json', token, i)
        for token, i in read_settings(folder, 'added_tokens.json').items()
    ]
    config = read_settings(folder, 'tokenizer_config.json')
    entries += [
        ('tokenizer_config.json', token_text(token), i)
        for i, token in (config.get('added_tokens_decoder') or {}).items()
    ]
    listed = read_settings(folder, 'tokenizer.json').get('added_tokens') or []
    entries += [('tokenizer.json', token_text(t), t.get('id')) for t in listed]
    added: dict[int, str] = {}
    for file, token, token_id in entries:
        try:
            token_id = int(token_id)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{folder / file} gives the added token {token!r} the id '
                f'{token_id!r}; expected a number.'
            ) from error
        if not token:
            continue
        if added.setdefault(token_id, token) != token:
            raise ValueError(
                f'{folder / file} gives the id {token_id} to {token!r}, '
                f'another file of the folder to {added[token_id]!r}; correct '
                'the one that does not belong to the weights.'
            )
    return added


def read_chat_template(folder: Path) -> 'str | dict[str, str] | None':
    """Return the chat template of a tokenizer, as transformers reads it.

    Args:
        folder: The LLM's folder.

    Returns:
        The text of ``chat_template.jinja``, else ``chat_template`` of
        ``chat_template.json`` or ``tokenizer_config.json``: a Jinja template,
        or several by name. None without one.

    Raises:
        ValueError: A file is no regular file, no text or no JSON object.
    """
    path = folder / 'chat_template.jinja'
    if path.is_file():
        try:
            return read_regular(path).decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f'{path} is not UTF-8 text ({error.reason}); download it '
                'again.'
            ) from error
    for name in ('chat_template.json', 'tokenizer_config.json'):
        template = read_settings(folder, name).get('chat_template')
        if isinstance(template, str):
            return template
        if isinstance(template, list):
            return {
                str(entry.get('name')): str(entry.get('template'))
                for entry in template
                if isinstance(entry, dict)
            }
    return None


def token_text(token: Any) -> str:
    """Return the text of a special token, which may be an object; else ''."""
    if isinstance(token, dict):
        token = token.get('content')
    return token if isinstance(token, str) else ''


def read_settings(folder: Path, name: str) -> dict:
    """Read a JSON object of the folder; return an empty dict without a file.

    Args:
        folder: The LLM's folder.
        name: The name of the file.

    Raises:
        ValueError: It is no regular file or no JSON object.
    """
    path = folder / name
    return read_json(path) if path.is_file() else {}
