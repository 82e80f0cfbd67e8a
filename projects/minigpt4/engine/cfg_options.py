# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parse ``--cfg-options`` and apply them to a config.

mmengine's own action drops spaces, splits strings at commas, and creates any
key. Here a string stays as it was written, and an unknown key is an error.
"""

import argparse
import ast
import inspect
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

from ..utils.suggest import suggest

# unlike Python without + and _: +5 and 1_000 are strings
_NUMBER = re.compile(r'-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?')
_CONSTANTS = {
    'true': True,
    'True': True,
    'false': False,
    'False': False,
    'None': None,
    'inf': float('inf'),
    '-inf': float('-inf'),
    'nan': float('nan'),
}
# settings whose value is a string even if it looks like a number
_STRING_SETTINGS = frozenset(
    'work_dir load_from experiment_name data_root ann_file image_folder '
    'name_or_path checkpoint prompt system shards'.split()
)
_CLOSING = {'[': ']', '(': ')'}
# settings that mmengine or this package reads besides those of the config
_TOP_KEYS = frozenset(
    'model work_dir train_dataloader val_dataloader test_dataloader train_cfg '
    'val_cfg test_cfg auto_scale_lr optim_wrapper param_scheduler '
    'val_evaluator test_evaluator default_hooks custom_hooks '
    'data_preprocessor load_from resume launcher env_cfg log_processor '
    'log_level visualizer default_scope randomness experiment_name '
    'activation_checkpointing efficient_conv_bn_eval compile sync_bn '
    'find_unused_parameters model_wrapper_cfg custom_imports max_iters '
    'global_batch_size needs_load_from'.split()
)
# keys that mmengine removes before it builds an object
_BUILD_KEYS = frozenset(
    'type _scope_ _delete_ priority constructor optimizer paramwise_cfg '
    'convert_to_iter_based num_batch_per_epoch dataset'.split()
)
# position in 0.1's custom_hooks: name in default_hooks
_HOOK_NAMES = ('resume', 'sanity', 'throughput', 'sample_captions')


class CfgOptions(argparse.Action):
    """The argparse action of ``--cfg-options KEY=VALUE ...``: a dict."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Parse the options, and add them to those of earlier uses."""
        options = dict(getattr(namespace, self.dest, None) or {})
        try:
            options |= parse_options(values)
        except ValueError as error:
            parser.error(f'{option_string}: {error}')
        setattr(namespace, self.dest, options)


def parse_options(items: Iterable[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` items; the last of equal keys counts.

    Raises:
        ValueError: An item has another form.
    """
    options = {}
    for item in items:
        key, equals, value = item.partition('=')
        if not equals or not key.strip():
            raise ValueError(
                f'expected KEY=VALUE, found {item!r}; put quotes around a '
                'value with spaces'
            )
        options[key.strip()] = parse_value(value)
    return options


def parse_value(text: str) -> Any:
    """Parse the value of an option.

    Numbers, ``True``, ``False`` and ``None`` are read as such; ``[a, b]`` is
    a list and ``(a, b)`` a tuple, also nested; ``1,2`` is a list of numbers.
    A value in quotes is the string between them. Anything else is a string
    as it was written, with its spaces and commas.
    """
    word = text.strip()
    if (quoted := _unquoted(word)) is not None:
        return quoted
    if word in _CONSTANTS:
        return _CONSTANTS[word]
    number = _number(word)
    if number is not None:
        return number
    if word and _CLOSING.get(word[0]) == word[-1]:
        items = _items(word[1:-1])
        if items is not None:
            values = [parse_value(item.strip()) for item in items]
            return tuple(values) if word[0] == '(' else values
    numbers = [_number(item.strip()) for item in word.split(',')]
    if len(numbers) > 1 and None not in numbers:
        return numbers
    return text


def _unquoted(word: str) -> str | None:
    """Return the string inside the quotes, None if there are no quotes."""
    if len(word) < 2 or word[0] not in '\'"' or word[-1] != word[0]:
        return None
    inner = word[1:-1]
    return None if word[0] in inner else inner


def _number(word: str) -> 'int | float | None':
    """Parse a number; None if it is none."""
    if not _NUMBER.fullmatch(word):
        return None
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):  # 007 is no number in Python
        return None


def _items(inner: str) -> list[str] | None:
    """Split at the top-level commas; None if brackets do not match."""
    items, start, quote = [], 0, ''
    open_brackets: list[str] = []  # the brackets that will close them
    for index, char in enumerate(inner):
        if quote:
            quote = '' if char == quote else quote
        elif char in '\'"' and not inner[start:index].strip(' [('):
            quote = char  # at the start of an item; elsewhere it is a letter
        elif char in _CLOSING:
            open_brackets.append(_CLOSING[char])
        elif char in _CLOSING.values():
            if not open_brackets or open_brackets.pop() != char:
                return None
        elif char == ',' and not open_brackets:
            items.append(inner[start:index])
            start = index + 1
    if open_brackets or quote:
        return None
    items.append(inner[start:])
    if not items[-1].strip():  # [] or a trailing comma
        items.pop()
    return items


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Apply options to a config.

    Args:
        cfg: The config; changed.
        options: Values by dotted key, e.g. ``model.prompt``; a number is an
            index into a list.

    Raises:
        ValueError: A key names no setting, or a value has the wrong type.
    """
    options = {_current_key(cfg, k): v for k, v in options.items()}
    options = {
        key: _as_string(key, value)
        if key.rpartition('.')[2] in _STRING_SETTINGS
        else value
        for key, value in options.items()
    }
    for key, value in options.items():
        _check_key(cfg, key, value)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'--cfg-options {" ".join(options)}: {error.args[0]}'
        ) from error


def _current_key(cfg: Config, key: str) -> str:
    """Translate ``custom_hooks.N`` of 0.1, whose hooks have names now."""
    match = re.fullmatch(r'custom_hooks\.(\d+)(\..+)', key)
    hooks = cfg.get('custom_hooks') or []
    if match is None or int(match[1]) < len(hooks):
        return key
    names = [n for n in _HOOK_NAMES if n in cfg.get('default_hooks', {})]
    number = int(match[1])
    if len(names) != len(_HOOK_NAMES):  # not a config of this package
        return key
    if number < len(names):
        new = f'default_hooks.{names[number]}{match[2]}'
    elif number - len(names) < len(hooks):  # the user's own hooks
        new = f'custom_hooks.{number - len(names)}{match[2]}'
    else:
        return key
    warnings.warn(
        f'--cfg-options {key} is deprecated and will be removed in 0.3; use '
        f'{new}.',
        FutureWarning,  # unlike DeprecationWarning shown to users
        stacklevel=4,
    )
    return new


def _as_string(key: str, value: Any) -> Any:
    """Convert the value of a setting that is a string, e.g. 2024.

    Raises:
        ValueError: The original spelling is lost, as that of 1e3.
    """
    if type(value) is int:
        return str(value)
    if isinstance(value, (bool, float)):
        raise _option_error(
            key,
            f'{value!r} is not a string; put quotes around it that reach the '
            f'program: \'{key}="..."\'',
        )
    return value


def _check_key(cfg: Config, key: str, value: Any) -> None:
    """Check that a key names a setting that the value can be assigned to."""
    node: Any = cfg
    parts = key.split('.')
    for depth, part in enumerate(parts):
        where = '.'.join(parts[:depth]) or 'the config'
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not node:
                raise _option_error(key, f'{where} is an empty list')
            if not part.isdecimal() or int(part) >= len(node):
                raise _option_error(
                    key,
                    f'{where} is a list of {len(node)}; expected an index '
                    f'from 0 to {len(node) - 1} after it',
                )
            node = node[int(part)]
        elif node is None:
            raise _option_error(
                key, f'{where} is None; set all of it in a config'
            )
        elif not isinstance(node, Mapping) and node is not cfg:
            raise _option_error(
                key, f'{where} is {node!r}, which has no settings of its own'
            )
        elif part in node:
            node = node[part]
        else:
            _check_new(node, part, key, where, top=depth == 0)
            if not last and not _is_parameter(node, part):
                raise _option_error(
                    key,
                    f'{where} has no setting {part!r}',
                    suggest(part, node),
                )
            return
    if isinstance(value, str) and _is_number(node):
        raise _option_error(key, f'{value!r} is not a number like {node!r}')
    if isinstance(value, (str, int, float)) and isinstance(node, Mapping):
        raise _option_error(
            key,
            f'it is a group of settings; set one, e.g. {_example(key, node)}',
        )


def _check_new(node: Any, part: str, key: str, where: str, top: bool) -> None:
    """Check a key that the config does not have yet."""
    if top:
        if part not in _TOP_KEYS:
            raise _option_error(
                key,
                f'{where} has no setting {part!r}',
                suggest(part, [*node, *_TOP_KEYS]),
            )
        return
    names = _parameters(node)
    if names is None:  # any key may be valid: refuse only a clear typo
        close = suggest(part, node, 0.9)
        if close:
            raise _option_error(key, f'{where} has no setting {part!r}', close)
    elif part not in names:
        raise _option_error(
            key,
            f'{where} has no setting {part!r}',
            suggest(part, [*node, *names]),
        )


def _is_parameter(node: Any, part: str) -> bool:
    return part in (_parameters(node) or ())


def _parameters(node: Mapping) -> set[str] | None:
    """Return the arguments of the class of a group; None if unknown."""
    if 'type' not in node:
        if 'dataset' in node:
            return {
                *inspect.signature(DataLoader.__init__).parameters,
                *node,
            }
        return None
    kind = node['type']
    if isinstance(kind, str) and '.' in kind:  # of a dumped config
        kind = get_object_from_string(kind)
    if not inspect.isclass(kind):
        return None
    names = set(_BUILD_KEYS)
    for base in kind.__mro__:
        if '__init__' not in vars(base) or base is object:
            continue
        signature = inspect.signature(vars(base)['__init__'])
        parameters = signature.parameters.values()
        names.update(p.name for p in parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _example(key: str, node: Mapping) -> str:
    return f'{key}.{next(iter(node), "NAME")}=VALUE'


def _option_error(key: str, problem: str, close: str = '') -> ValueError:
    hint = f'; did you mean {close!r}?' if close else '.'
    return ValueError(f'--cfg-options {key}: {problem}{hint}')
