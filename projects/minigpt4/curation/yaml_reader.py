# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read YAML of users: a key that is there twice is an error.

PyYAML takes the last one and says nothing, so that the settings of the first
would be lost.
"""

from typing import Any

import yaml

from ..utils.errors import one_line, printable


class DuplicateKeyError(yaml.constructor.ConstructorError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """The safe loader, which checks the keys of each mapping."""

    def construct_mapping(
        self, node: yaml.MappingNode, deep: bool = False
    ) -> dict:
        # before the merge of "<<", whose keys may be replaced
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = key.tag, key.value
            if name in lines:
                raise DuplicateKeyError(
                    problem=f'the key {printable(key.value)} is there twice, '
                    f'first in line {lines[name]}',
                    problem_mark=key.start_mark,
                )
            lines[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Read a YAML document, which may be one value.

    Raises:
        DuplicateKeyError: A key is there twice.
        yaml.YAMLError: It is not YAML.
    """
    return yaml.load(text, _Loader)  # noqa: S506, a safe loader


def yaml_reason(error: Exception) -> str:
    """Return the reason of an error in YAML, with its line if it has one."""
    mark = getattr(error, 'problem_mark', None)
    problem = getattr(error, 'problem', None) or one_line(error)
    line = f'line {mark.line + 1}: ' if mark is not None else ''
    return f'{line}{problem}'
