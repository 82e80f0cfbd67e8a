# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of a Hugging Face folder that name code, block, or are not JSON.

A folder that names code of its own is refused: transformers would ask on
standard input whether to run it. Standard library only; see
:mod:`~minigpt4.weights.llm_folder`.
"""

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.regular_files import read_regular
from .file_errors import weights_file_error

# keys of any of the folder's JSON files whose value names code to run
_CODE_KEYS = ('auto_map', 'custom_generate', 'custom_pipelines')
# keys whose value may name a repository of compiled kernels
_KERNEL_KEYS = (
    'attn_implementation',
    '_attn_implementation',
    '_attn_implementation_internal',
    'experts_implementation',
    '_experts_implementation',
    'kernel_config',
    'use_kernels',
)
_READ_SUFFIXES = ('.json', '.safetensors', '.bin', '.model', '.txt', '.jinja')
AGAIN = 'download it again'


@dataclass(frozen=True)
class Fault:
    """A reason why a folder is refused.

    Attributes:
        what: What is wrong; it names the file.
        advice: What to do.
        missing: Whether a file is missing.
    """

    what: str
    advice: str
    missing: bool = False

    def error(self) -> Exception:
        """The error to raise: FileNotFoundError or ValueError."""
        kind = FileNotFoundError if self.missing else ValueError
        return kind(f'{self.what}; {self.advice}.')


def code_faults(folder: Path) -> Iterator[Fault]:
    """Yield what is special, unreadable or names code in a folder.

    It holds for every folder of Hugging Face, of an LLM or of a BLIP-2;
    :func:`~minigpt4.weights.llm_folder.find_faults` adds what holds for an
    LLM.
    """
    for path in sorted(folder.iterdir()):
        yield from _faults_of_entry(path)
    for path in sorted(folder.glob('*.json')):
        named = path.name.endswith('config.json') or path.name in (
            'special_tokens_map.json',
            'added_tokens.json',
            'chat_template.json',
        )
        if not named or not path.is_file():
            continue
        try:
            content = read_object(path)
        except ValueError as error:
            what, _, advice = str(error).rstrip('.').partition('; ')
            yield Fault(what, advice)
            continue
        for key, value in _named_code(content):
            yield Fault(
                f'{path} wants code of its own ({key}: {value}), which is '
                'never run',
                f'remove {key} from it if this transformers has the model '
                'itself, else give another LLM',
            )


def _faults_of_entry(path: Path) -> Iterator[Fault]:
    try:
        mode = path.stat().st_mode
    except OSError:
        if path.suffix in _READ_SUFFIXES:
            yield Fault(
                f'{path} is a link to a file that does not exist',
                AGAIN,
                missing=True,
            )
        return
    if stat.S_ISDIR(mode):
        if path.name == 'custom_generate':
            yield Fault(
                f'{path} holds code of its own for generation, which is '
                'never run',
                'remove that folder',
            )
        elif path.suffix in _READ_SUFFIXES:
            yield Fault(f'{path} is a folder; expected a file', AGAIN)
    elif not stat.S_ISREG(mode):
        yield Fault(
            f'{path} is a FIFO, a device or a socket; expected a regular file',
            'remove it',
        )
    elif path.name == 'adapter_config.json':
        yield Fault(
            f'{path} makes the folder an adapter (LoRA) on another LLM, which '
            'is not followed',
            'merge the adapter into its LLM and give that folder, or remove '
            'adapter_config.json',
        )


def _named_code(content: Any) -> Iterator[tuple[str, str]]:
    """Keys and values in a JSON file that name code, at any depth."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if not isinstance(value, dict):
            continue
        for key, inner in value.items():
            if key in _CODE_KEYS and inner:
                yield key, shown(inner)
            elif key in _KERNEL_KEYS and _is_kernel(inner):
                yield key, shown(inner)
            else:
                waiting.append(inner)


def _is_kernel(value: Any) -> bool:
    """Whether a setting is not one of transformers' own (sdpa, eager ...)."""
    if isinstance(value, dict):
        return any(_is_kernel(inner) for inner in value.values())
    if isinstance(value, str):
        return not value.replace('_', '').isalnum()
    return bool(value)


def shown(value: Any) -> str:
    """A value of a JSON file for a message: one line, 80 characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.encode('unicode_escape').decode('ascii')
    return text if len(text) <= 80 else f'{text[:77]}...'


def read_object(path: Path) -> dict:
    """Read a JSON object as transformers does: UTF-8 without a BOM.

    Raises:
        ValueError: It holds something else, or is not a regular file.
        OSError: It cannot be read.
    """
    data = read_regular(path)
    found = weights_file_error(data[:512])
    if found is not None:
        raise ValueError(f'{path} is no JSON: it {found[0]}; {found[1]}.')
    if data.startswith(b'\xef\xbb\xbf'):
        raise ValueError(
            f'{path} begins with a byte order mark, which transformers does '
            'not read; save it as UTF-8 without BOM.'
        )
    try:
        content = json.loads(data.decode('utf-8'))
    except RecursionError:
        raise ValueError(f'{path} is nested too deeply; {AGAIN}.') from None
    except ValueError as error:
        raise ValueError(f'{path} is no JSON ({error}); {AGAIN}.') from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} holds a {type(content).__name__}; expected an object.'
        )
    return content
