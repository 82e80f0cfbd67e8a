# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The settings of a curation: one section for each step.

They come from a YAML file, from ``--set SECTION.FIELD=VALUE``, or from the
last run on the ledger. Another step adds its section to
:class:`CurationSettings`, and its constructor to :data:`_STEPS` if it runs
without a person.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..prompts.text_validation import check_characters
from ..utils.errors import printable, short_json
from ..utils.suggest import suggest
from ..utils.text_files import read_text
from .continue_step import ContinueSettings, ContinueStep
from .describe import DescribeSettings, DescribeStep
from .export import ExportSettings
from .ledger import Ledger
from .pipeline import Step
from .repair import RepairStep
from .repair_settings import RepairSettings
from .review_settings import ReviewSettings
from .rules import RulesSettings, RulesStep
from .yaml_reader import DuplicateKeyError, read_yaml, yaml_reason


class CurationSettings(BaseModel):
    """The settings of all steps."""

    model_config = ConfigDict(extra='forbid', populate_by_name=True)

    describe: DescribeSettings = Field(
        default_factory=DescribeSettings,
        description='the model, and how it describes an image',
    )
    continue_: ContinueSettings = Field(
        default_factory=ContinueSettings,
        alias='continue',
        description='when and how a description is continued',
    )
    repair: RepairSettings = Field(
        default_factory=RepairSettings,
        description='which language model corrects a description',
    )
    rules: RulesSettings = Field(
        default_factory=RulesSettings,
        description='which texts are dropped',
    )
    review: ReviewSettings = Field(
        default_factory=ReviewSettings,
        description='the order in which people get the texts',
    )
    export: ExportSettings = Field(
        default_factory=ExportSettings,
        description='what is exported, and in which layouts',
    )


# in the order in which they run
_STEPS: dict[str, Callable[[CurationSettings], Step]] = {
    'describe': lambda s: DescribeStep(s.describe),
    'continue': lambda s: ContinueStep(s.continue_, s.describe),
    'repair': lambda s: RepairStep(s.repair),
    'rules': lambda s: RulesStep(s.rules),
}
STEP_NAMES = tuple(_STEPS)


def build_steps(settings: CurationSettings) -> list[Step]:
    """Make the steps that run without a person, in their order.

    No model is loaded before a step runs.

    Raises:
        ValueError: A setting cannot be used, e.g. there is no such model.
        OSError: A file that a setting names cannot be read.
    """
    return [make(settings) for make in _STEPS.values()]


def load_settings(
    ledger: Ledger,
    config: 'str | Path | None' = None,
    overrides: Sequence[str] = (),
) -> CurationSettings:
    """Find the settings of a command.

    Args:
        ledger: Its last settings count if there is no file.
        config: A YAML file; fields that it lacks have their defaults.
        overrides: ``SECTION.FIELD=VALUE``, with the value in YAML.

    Raises:
        ValueError: A field does not exist or its value is wrong.
        OSError: The file cannot be read.
    """
    if config is not None:
        return read_settings(config, overrides)
    return parse_settings(
        ledger.settings() or {}, f'{ledger.path} (its last run)', overrides
    )


def read_settings(
    config: 'str | Path', overrides: Sequence[str] = ()
) -> CurationSettings:
    """Read settings from a YAML file; see :func:`load_settings`."""
    name = printable(str(config))
    try:
        data = read_yaml(read_text(str(config)))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'--config {name} does not exist; give a YAML file of settings.'
        ) from error
    except DuplicateKeyError as error:
        raise ValueError(
            f'{name}, {yaml_reason(error)}; join the two.'
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(
            f'{name} is not a YAML file ({yaml_reason(error)}); write '
            'sections such as "rules:" with indented fields.'
        ) from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ValueError(
            f'{name} has {short_json(data)}; expected the sections '
            f'{", ".join(_names(CurationSettings))}.'
        )
    return parse_settings(data, name, overrides)


def parse_settings(
    data: dict[str, Any], source: str, overrides: Sequence[str] = ()
) -> CurationSettings:
    """Check settings, after replacing some of their fields.

    Args:
        data: The settings, by section.
        source: Where they come from, for errors.
        overrides: See :func:`load_settings`.

    Raises:
        ValueError: A field does not exist or its value is wrong.
    """
    changed = {
        name: dict(value) if isinstance(value, dict) else value
        for name, value in data.items()
    }
    given: dict[tuple[str, ...], str] = {}
    for text in _texts(data):
        check_characters(text, f'{source}: {short_json(text)}')
    for text in overrides:
        path, value = _parse_override(text)
        for part in _texts([*path, value]):
            check_characters(part, f'--set {printable(text)}')
        given[path] = f'--set {printable(text)}'
        place: Any = changed
        for part in path[:-1]:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[path[-1]] = value
    try:
        return CurationSettings.model_validate(changed)
    except ValidationError as error:
        raise ValueError(_sentence(error, data, source, given)) from error


def dump_settings(settings: CurationSettings) -> dict[str, Any]:
    """Return settings as JSON, which :func:`parse_settings` reads."""
    return settings.model_dump(mode='json', by_alias=True)


def _parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    name, separator, value = text.partition('=')
    path = tuple(name.strip().split('.'))
    if not separator or len(path) < 2 or not all(path):
        raise ValueError(
            f'--set {printable(text)} has not the form SECTION.FIELD=VALUE, '
            'e.g. --set rules.min_words=10.'
        )
    try:
        return path, read_yaml(value)
    except DuplicateKeyError as error:
        raise ValueError(
            f'--set {printable(text)}: {error.problem}; give it once.'
        ) from error
    except yaml.YAMLError as error:
        raise ValueError(
            f'the value of --set {printable(text)} is not YAML '
            f'({yaml_reason(error)}); put a text in quotes.'
        ) from error


def _sentence(
    error: ValidationError,
    data: dict[str, Any],
    source: str,
    given: dict[tuple[str, ...], str],
) -> str:
    """One sentence for the first wrong field."""
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first['loc'])
    source = _source_of(path, data, source, given)
    name = '.'.join(path)
    if first['type'] == 'extra_forbidden':
        known = _names(_model_at(path[:-1]))
        close = suggest(path[-1], known)
        advice = (
            f'did you mean {close}?'
            if close
            else f'expected one of {", ".join(known)}.'
        )
        return f'{source}: there is no setting {printable(name)}; {advice}'
    if first['type'] == 'value_error' and isinstance(first['input'], dict):
        # of a whole section: the sentence names its fields
        return f'{source}: in {name}, {first["ctx"]["error"]}'
    if first['type'] in ('tuple_type', 'list_type'):
        return (
            f'{source}: {name} is {short_json(first["input"])}; expected a '
            f'list, e.g. {name}=[{_example(path)}].'
        )
    message = first['msg'].removeprefix('Value error, ')
    message = message[:1].lower() + message[1:]
    if not message.endswith(('.', '?')):
        message += '.'
    return f'{source}: {name} is {short_json(first["input"])}; {message}'


def _source_of(
    path: tuple[str, ...],
    data: dict[str, Any],
    source: str,
    given: dict[tuple[str, ...], str],
) -> str:
    """Name what gave a wrong value: some ``--set``, or else the source.

    Args:
        path: Of the value.
        data: The settings without those of ``--set``.
        source: Where these come from.
        given: Each ``--set`` by its path.
    """
    for length in range(len(path), 0, -1):
        if path[:length] in given:
            return given[path[:length]]
    inside = [text for p, text in given.items() if p[: len(path)] == path]
    if not inside:
        return source
    try:
        CurationSettings.model_validate(data)
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            if tuple(str(part) for part in wrong['loc']) == path:
                return source  # it was wrong before
    return ', '.join(inside)


def _example(path: Sequence[str]) -> str:
    """An element of a setting that is a list."""
    for name, field in _model_at(path[:-1]).model_fields.items():
        if path[-1] in (name, field.alias):
            found = field.get_default(call_default_factory=True)
            return str(next(iter(field.examples or found or ()), '...'))
    return '...'


def _texts(value: Any) -> Iterator[str]:
    """All texts of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _model_at(path: Sequence[str]) -> type[BaseModel]:
    """The class of the section that a path names."""
    model: type[BaseModel] = CurationSettings
    for part in path:
        for name, field in model.model_fields.items():
            if part in (name, field.alias):
                kind = field.annotation
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    model = kind
    return model


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
