# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The settings of a curation: one section for each step.

They come from a YAML file, from ``--set SECTION.FIELD=VALUE``, or from the
last run on the ledger. Another step adds its section to
:class:`CurationSettings`, and its constructor to :data:`_STEPS` if it runs
without a person.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..utils.errors import one_line, printable, short_json
from ..utils.regular_files import read_regular
from ..utils.suggest import suggest
from .continue_step import ContinueSettings, ContinueStep
from .describe import DescribeSettings, DescribeStep
from .export import ExportSettings
from .ledger import Ledger
from .pipeline import Step
from .repair import RepairStep
from .repair_settings import RepairSettings
from .review_settings import ReviewSettings
from .rules import RulesSettings, RulesStep


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
        data = yaml.safe_load(read_regular(str(config)).decode('utf-8-sig'))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f'{name} is not a YAML file ({_yaml_reason(error)}); write '
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
    for text in overrides:
        path, value = _parse_override(text)
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
        raise ValueError(_sentence(error, source, given)) from error


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
        return path, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(
            f'the value of --set {printable(text)} is not YAML '
            f'({_yaml_reason(error)}); put a text in quotes.'
        ) from error


def _sentence(
    error: ValidationError, source: str, given: dict[tuple[str, ...], str]
) -> str:
    """One sentence for the first wrong field."""
    first = error.errors(include_url=False)[0]
    path = tuple(str(part) for part in first['loc'])
    for length in range(len(path), 0, -1):
        source = given.get(path[:length], source)
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
    message = first['msg'].removeprefix('Value error, ')
    message = message[:1].lower() + message[1:]
    if not message.endswith(('.', '?')):
        message += '.'
    return f'{source}: {name} is {short_json(first["input"])}; {message}'


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


def _yaml_reason(error: Exception) -> str:
    mark = getattr(error, 'problem_mark', None)
    problem = getattr(error, 'problem', None) or one_line(error)
    line = f'line {mark.line + 1}: ' if mark is not None else ''
    return f'{line}{problem}'
