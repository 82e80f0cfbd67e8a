# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The config of a run in logs, files and checkpoints."""

from typing import Any

from mmengine.config import Config

from ..datasets.remote_shards import shown


class LoggedConfig(Config):
    """A config whose text has ``***`` for the logins of addresses.

    mmengine writes the text of a config to the log, the work dir, every
    checkpoint and the visualization backends. The values stay the same.
    """

    @classmethod
    def of(cls, cfg: Config) -> 'LoggedConfig':
        """Return a copy of a config."""
        logged = cls()
        logged.__setstate__(cfg.__getstate__())
        return logged

    @property
    def pretty_text(self) -> str:
        """The config as the text of a Python file."""
        return shown(super().pretty_text)

    def to_dict(self, keep_imported: bool = False) -> dict[str, Any]:
        """Return the config as builtin types; see mmengine."""
        return _hide_logins(super().to_dict(keep_imported))


def _hide_logins(value: Any) -> Any:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, dict):
        return {key: _hide_logins(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_hide_logins, value))
    return value
