# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Our models under their names in MMPretrain's model hub."""

import functools
from pathlib import Path

_PACKAGE = Path(__file__).parent


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
    same names, whose configs cannot run.
    """
    from mmpretrain.apis.model import ModelHub

    theirs = ModelHub._register_mmpretrain_models

    @functools.cache
    def add_ours() -> None:
        for model in _read_index():
            ModelHub._models_dict[model.name.lower()] = model

    def register(cls) -> None:
        theirs()
        add_ours()

    ModelHub._register_mmpretrain_models = classmethod(register)


def _read_index() -> list:
    """The models of our index, with absolute paths."""
    from modelindex.load_model_index import load

    root = project_root()
    index = load(str(root / 'model-index.yml'))
    index.build_models_with_collections()
    for model in index.models:
        model.config = str(root / model.config)
        if model.weights and model.weights.startswith('nano/'):
            model.weights = str(
                _PACKAGE
                / 'nano'
                / 'weights'
                / model.weights.removeprefix('nano/')
            )
    return list(index.models)
