# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Our models under their names in MMPretrain's model hub."""

import difflib
import functools
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from modelindex.load_model_index import load
from modelindex.models.Model import Model

from ..utils.errors import one_line
from .download import fetch
from .shipped import PREFIX, shipped_or_local

_PACKAGE = Path(__file__).parents[1]


def project_root() -> Path:
    """Where ``configs/`` and ``model-index.yml`` lie.

    The checkout for an editable install; ``.mim`` of the package for a wheel.
    """
    checkout = _PACKAGE.parents[1]
    if (checkout / 'configs' / 'minigpt4' / 'metafile.yml').is_file():
        return checkout
    return _PACKAGE / '.mim'


def register_models() -> None:
    """Let MMPretrain's model hub know the models of ``metafile.yml``.

    MMPretrain reads its own index when a model is first asked for; ours is
    read right after it, and takes the place of MMPretrain's entries of the
    same names, whose configs cannot run. Their weights come by
    :func:`~minigpt4.weights.download.fetch`.
    """
    from mmpretrain.apis.model import ModelHub

    theirs = ModelHub._register_mmpretrain_models

    @functools.cache
    def add_ours() -> None:
        for name, model in our_models().items():
            ModelHub._models_dict[name] = model
            if (model.weights or '').startswith('http'):
                CheckpointLoader.register_scheme(
                    re.escape(model.weights), load_from_cache, force=True
                )

    def register(cls) -> None:
        theirs()
        add_ours()

    ModelHub._register_mmpretrain_models = classmethod(register)


def our_models() -> dict[str, Model]:
    """The models of our index by name, with absolute paths."""
    root = project_root()
    index = load(str(root / 'model-index.yml'))
    index.build_models_with_collections()
    for model in index.models:
        model.config = str(root / model.config)
        if model.weights and model.weights.startswith(PREFIX):
            model.weights = str(shipped_or_local(model.weights))
    return {model.name.lower(): model for model in index.models}


def read_config(name: str) -> Config:
    """Read the file of a config.

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
    except Exception as error:  # a config is Python: it may raise any
        raise ValueError(
            f'{name} is not a config ({type(error).__name__}: '
            f'{one_line(error)}); correct it.'
        ) from error


def check_name(name: str) -> None:
    """Refuse a name that the hub does not have.

    Raises:
        ValueError: There is no such model.
    """
    from mmpretrain.apis.model import ModelHub

    ModelHub._register_mmpretrain_models()
    models = our_models()
    if name.lower() in models or ModelHub.has(name.lower()):
        return
    close = difflib.get_close_matches(name.lower(), models, 1, 0.5)
    raise ValueError(
        f'there is no model {name!r}; '
        + (
            f'did you mean {close[0]}?'
            if close
            else f'there are {", ".join(models)}, or give the file of a '
            'config (.py).'
        )
    )


def require_weights(name: str) -> None:
    """Refuse one of our models whose projection is hosted no more.

    Raises:
        ValueError: The model's checkpoint has to be given as a file.
    """
    model = our_models().get(name.lower())
    if model is not None and not model.weights:
        raise ValueError(
            f'no projection is hosted for {name}; give the file of one as '
            "pretrained='FILE', or pretrained=False for an untrained layer."
        )


def load_from_cache(filename: str, map_location=None):
    """Load a published checkpoint from the cache, for mmengine."""
    return CheckpointLoader.load_checkpoint(str(fetch(filename)), map_location)
