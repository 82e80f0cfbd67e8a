# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``--cfg-options``: how values are read, and which keys are accepted.

mmengine's own action drops blanks, splits texts at commas, and creates any
key; here a value is what was written, and an unknown key is refused.
"""

import argparse
import ast
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_object_from_string
from torch.utils.data import DataLoader

# without + and _, which Python reads as well: +5 and 1_000 are names
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
# settings that are a path or a text, though it may look like a number
_TEXTS = frozenset(
    'work_dir load_from experiment_name data_root ann_file image_folder '
    'name_or_path checkpoint prompt system shards'.split()
)
_CLOSING = {'[': ']', '(': ')'}
# settings that mmengine or this package reads, beyond those of the config
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
# keys that mmengine takes out before it builds an object
_BUILD_KEYS = frozenset(
    'type _scope_ _delete_ priority constructor optimizer paramwise_cfg '
    'convert_to_iter_based num_batch_per_epoch dataset'.split()
)


class CfgOptions(argparse.Action):
    """The argparse action of ``--cfg-options KEY=VALUE ...``: a dict."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """Read the options; those of several uses are taken together."""
        options = dict(getattr(namespace, self.dest, None) or {})
        try:
            options |= parse_options(values)
        except ValueError as error:
            parser.error(f'{option_string}: {error}')
        setattr(namespace, self.dest, options)


def parse_options(items: Iterable[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` items; the last of equal keys counts.

    Raises:
        ValueError: An item has another form.
    """
    options = {}
    for item in items:
        key, equals, value = item.partition('=')
        if not equals or not key.strip():
            raise ValueError(
                f'expected KEY=VALUE, found {item!r}; put quotes around a '
                'value with blanks'
            )
        options[key.strip()] = parse_value(value)
    return options


def parse_value(text: str) -> Any:
    """Read the value of an option.

    Numbers, ``True``, ``False`` and ``None`` are read as such; ``[a, b]`` is
    a list and ``(a, b)`` a tuple, also nested; ``1,2`` is a list of numbers.
    A value in quotes is the text between them. Anything else is a text as
    it was written, with its blanks and commas.
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
    numbers = [_number(part.strip()) for part in word.split(',')]
    if len(numbers) > 1 and None not in numbers:
        return numbers
    return text


def _unquoted(word: str) -> str | None:
    """The text of a value in quotes, None where it is not in quotes."""
    if len(word) < 2 or word[0] not in '\'"' or word[-1] != word[0]:
        return None
    inner = word[1:-1]
    return None if word[0] in inner else inner


def _number(word: str) -> 'int | float | None':
    if not _NUMBER.fullmatch(word):
        return None
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):  # 007 is a text, as in Python
        return None


def _items(inner: str) -> list[str] | None:
    """The parts between top-level commas; None where brackets do not match."""
    items, start, waiting, quote = [], 0, [], ''
    for place, char in enumerate(inner):
        if quote:
            quote = '' if char == quote else quote
        elif char in '\'"' and not inner[start:place].strip(' [('):
            quote = char  # a quote opens an item; elsewhere it is a letter
        elif char in _CLOSING:
            waiting.append(_CLOSING[char])
        elif char in _CLOSING.values():
            if not waiting or waiting.pop() != char:
                return None
        elif char == ',' and not waiting:
            items.append(inner[start:place])
            start = place + 1
    if waiting or quote:
        return None
    items.append(inner[start:])
    if not items[-1].strip():  # [] or a trailing comma
        items.pop()
    return items


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Set options over a config.

    Args:
        cfg: The config; changed.
        options: Values by dotted key, e.g. ``model.prompt``; a number is an
            index into a list.

    Raises:
        ValueError: A key names no setting, or a value cannot be one.
    """
    options = {
        key: _as_text(key, value)
        if key.rpartition('.')[2] in _TEXTS
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


def _as_text(key: str, value: Any) -> Any:
    """The value of a setting that is a text: 2024 is a name there.

    Raises:
        ValueError: What was written is no longer known, as of 1e3.
    """
    if type(value) is int:
        return str(value)
    if isinstance(value, (bool, float)):
        raise _refusal(
            key,
            f'{value!r} is no text; put quotes around it that reach the '
            f'program: \'{key}="..."\'',
        )
    return value


def _check_key(cfg: Config, key: str, value: Any) -> None:
    node: Any = cfg
    parts = key.split('.')
    for depth, part in enumerate(parts):
        where = '.'.join(parts[:depth]) or 'the config'
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise _refusal(
                    key,
                    f'{where} is a list of {len(node)}; expected an index '
                    f'from 0 to {len(node) - 1} after it',
                )
            node = node[int(part)]
        elif node is None:
            raise _refusal(
                key, f'{where} is None; in a config give the whole of it'
            )
        elif not isinstance(node, Mapping) and node is not cfg:
            raise _refusal(
                key, f'{where} is {node!r}, which has no settings of its own'
            )
        elif part in node:
            node = node[part]
        else:
            _check_new(node, part, key, where, top=depth == 0)
            if not last and not _is_parameter(node, part):
                raise _refusal(
                    key, f'{where} has no setting {part!r}', _close(part, node)
                )
            return
    if isinstance(value, str) and _is_number(node):
        raise _refusal(key, f'{value!r} is no number, as {node!r} is')
    if isinstance(value, (str, int, float)) and isinstance(node, Mapping):
        raise _refusal(
            key,
            f'it is a group of settings; set one, e.g. {_first(key, node)}',
        )


def _check_new(node: Any, part: str, key: str, where: str, top: bool) -> None:
    """Refuse a key that nothing would read."""
    if top:
        if part not in _TOP_KEYS:
            raise _refusal(
                key,
                f'{where} has no setting {part!r}',
                _close(part, [*node, *_TOP_KEYS]),
            )
        return
    names = _parameters(node)
    if names is None:  # anything may be read here: refuse a clear mistype
        close = difflib.get_close_matches(part, list(node), 1, 0.9)
        if close:
            raise _refusal(key, f'{where} has no setting {part!r}', close)
    elif part not in names:
        raise _refusal(
            key,
            f'{where} has no setting {part!r}',
            _close(part, [*node, *names]),
        )


def _is_parameter(node: Any, part: str) -> bool:
    return part in (_parameters(node) or ())


def _parameters(node: Mapping) -> set[str] | None:
    """What the class of a group of settings takes; None where unknown."""
    if 'type' not in node:
        if 'dataset' in node:
            return {
                *inspect.signature(DataLoader.__init__).parameters,
                *node,
            }
        return None
    kind = node['type']
    if isinstance(kind, str) and '.' in kind:  # of a config that was saved
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


def _close(part: str, names: Any) -> list[str]:
    return difflib.get_close_matches(part, list(names), 1, 0.6)


def _first(key: str, node: Mapping) -> str:
    return f'{key}.{next(iter(node), "NAME")}=VALUE'


def _refusal(key: str, problem: str, close: 'list[str] | None' = None):
    hint = f'; did you mean {close[0]!r}?' if close else '.'
    return ValueError(f'--cfg-options {key}: {problem}{hint}')
