# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Register our models in MMPretrain's model hub and look them up by name."""

import functools
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from modelindex.load_model_index import load
from modelindex.models.Model import Model

from ..utils.errors import one_line
from ..utils.suggest import suggest
from .download import download_file, is_remote
from .shipped import PREFIXES, shipped_or_local

_PACKAGE = Path(__file__).parents[1]


def project_root() -> Path:
    """Return the folder of ``configs/`` and ``model-index.yml``.

    It is the checkout for an editable install, and ``.mim`` in the package
    for a wheel.
    """
    checkout = _PACKAGE.parents[1]
    if (checkout / 'configs' / 'minigpt4' / 'metafile.yml').is_file():
        return checkout
    return _PACKAGE / '.mim'


def register_models() -> None:
    """Add the models of ``metafile.yml`` to MMPretrain's model hub.

    MMPretrain reads its own index when a model is first requested; ours is
    read right after it and replaces MMPretrain's entries of the same names,
    whose configs cannot run. Their weights are downloaded with
    :func:`~minigpt4.weights.download.download_file`.
    """
    from mmpretrain.apis.model import ModelHub

    register_theirs = ModelHub._register_mmpretrain_models

    @functools.cache
    def add_ours() -> None:
        for name, model in our_models().items():
            ModelHub._models_dict[name] = model
            if is_remote(model.weights or ''):
                CheckpointLoader.register_scheme(
                    re.escape(model.weights), load_from_cache, force=True
                )

    def register(cls: type) -> None:
        register_theirs()
        add_ours()

    ModelHub._register_mmpretrain_models = classmethod(register)


def our_models() -> dict[str, Model]:
    """Return the models of our index by name, with absolute paths."""
    root = project_root()
    index = load(str(root / 'model-index.yml'))
    index.build_models_with_collections()
    for model in index.models:
        model.config = str(root / model.config)
        if model.weights and model.weights.startswith(PREFIXES):
            model.weights = str(shipped_or_local(model.weights))
    return {model.name.lower(): model for model in index.models}


def read_config(name: str) -> Config:
    """Read a config file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a config.
    """
    if not Path(name).is_file():
        raise FileNotFoundError(
            f'the config {name} does not exist; give the path of a config, '
            'or the name of a model (minigpt4 download --list).'
        )
    try:
        return Config.fromfile(name)
    except Exception as error:  # a config is Python: it may raise anything
        raise ValueError(
            f'{name} is not a config ({type(error).__name__}: '
            f'{one_line(error)}); correct it.'
        ) from error


def check_name(name: str) -> None:
    """Refuse a model name that the hub does not have.

    Raises:
        ValueError: There is no such model.
    """
    from mmpretrain.apis.model import ModelHub

    ModelHub._register_mmpretrain_models()
    models = our_models()
    if name.lower() in models or ModelHub.has(name.lower()):
        return
    raise unknown_model_error(name, models, 'the file of a config (.py)')


def unknown_model_error(
    name: str, models: Collection[str], alternative: str = ''
) -> ValueError:
    """Build the error for a model name that the hub does not have.

    Args:
        name: The name.
        models: The names of our models.
        alternative: Another thing that the user may give.
    """
    close = suggest(name.lower(), models, cutoff=0.5)
    advice = (
        f'did you mean {close}?'
        if close
        else f'there are {", ".join(models)}'
        + (f', or give {alternative}.' if alternative else '.')
    )
    return ValueError(f'there is no model {name!r}; {advice}')


def require_weights(name: str) -> None:
    """Refuse one of our models whose projection is no longer hosted.

    Raises:
        ValueError: The model's checkpoint has to be given as a file.
    """
    model = our_models().get(name.lower())
    if model is not None and not model.weights:
        raise ValueError(
            f'no projection is hosted for {name}; give the file of one as '
            "pretrained='FILE', or pretrained=False for an untrained layer."
        )


def load_from_cache(filename: str, map_location: Any = None) -> Any:
    """Load a published checkpoint through the download cache, for mmengine."""
    return CheckpointLoader.load_checkpoint(
        str(download_file(filename)), map_location
    )
