# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find files in a Hugging Face folder that would run code or block a read.

transformers would ask on standard input whether to run the code that a
folder names, so such a folder is refused. Standard library only, so that
``minigpt4 doctor`` can use it where the package itself cannot be imported.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .hf_folder_files import AGAIN, display_text, read_json

# keys in any JSON file of the folder whose value names code to run
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
# transformers reads these
_READ_SUFFIXES = ('.json', '.safetensors', '.bin', '.model', '.txt', '.jinja')
_CONFIG_FILES = (
    'special_tokens_map.json',
    'added_tokens.json',
    'chat_template.json',
)


@dataclass(frozen=True)
class Fault:
    """A reason to refuse a folder.

    Attributes:
        what: What is wrong; names the file.
        advice: What to do.
        missing: Whether a file is missing.
    """

    what: str
    advice: str
    missing: bool = False

    @classmethod
    def from_error(cls, error: ValueError) -> 'Fault':
        """Split an error's message, ``'what; advice.'``."""
        what, _, advice = str(error).rstrip('.').partition('; ')
        return cls(what, advice)

    def error(self) -> Exception:
        """Build the error to raise: FileNotFoundError or ValueError."""
        kind = FileNotFoundError if self.missing else ValueError
        return kind(f'{self.what}; {self.advice}.')


def find_unsafe_files(folder: Path) -> Iterator[Fault]:
    """Yield a fault for each file that is special, unreadable or names code.

    The rules hold for every Hugging Face folder, of an LLM or of a BLIP-2;
    :func:`~minigpt4.weights.check_llm_folder.find_faults` adds those for an
    LLM.
    """
    for path in sorted(folder.iterdir()):
        yield from _check_entry(path)
    for path in sorted(folder.glob('*.json')):
        is_config = path.name.endswith('config.json')
        if not (is_config or path.name in _CONFIG_FILES):
            continue
        if not path.is_file():
            continue
        try:
            content = read_json(path)
        except ValueError as error:
            yield Fault.from_error(error)
            continue
        for key, value in _find_code(content):
            yield Fault(
                f'{path} names code to run ({key}: {value}), which is '
                'never run',
                f'remove {key} from it if this transformers has the model '
                'itself, else give another LLM',
            )


def _check_entry(path: Path) -> Iterator[Fault]:
    """Check the type of one entry of a folder."""
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
                f'{path} holds code for generation, which is never run',
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
            'is not supported',
            'merge the adapter into its LLM and give that folder, or remove '
            'adapter_config.json',
        )


def _find_code(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the keys and values, at any depth of a JSON file, that name code.

    Values are formatted for a message.
    """
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        if not isinstance(value, dict):
            continue
        for key, inner in value.items():
            if key in _CODE_KEYS and inner:
                yield key, display_text(inner)
            elif key in _KERNEL_KEYS and _is_kernel(inner):
                yield key, display_text(inner)
            else:
                pending.append(inner)


def _is_kernel(value: Any) -> bool:
    """Whether a setting is none of transformers' own (sdpa, eager ...)."""
    if isinstance(value, dict):
        return any(_is_kernel(inner) for inner in value.values())
    if isinstance(value, str):
        return not value.replace('_', '').isalnum()
    return bool(value)
