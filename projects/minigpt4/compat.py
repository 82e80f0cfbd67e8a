# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Every difference between versions of our dependencies, in one place.

:func:`apply` runs before anything else of the package is imported.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch


def apply() -> None:
    """Make today's libraries work with mmengine 0.10 and MMPretrain 1.2."""
    _silence_bitsandbytes()
    _defer_optional_optimizers()
    _turn_off_mmpretrain_multimodal()
    _allow_mmengine_checkpoints()


def _silence_bitsandbytes() -> None:
    """Suppress a warning that bitsandbytes prints when it is imported.

    On CPUs with AVX-512 BF16 it recommends an optional kernel from a hub.
    """
    logger = logging.getLogger('bitsandbytes.backends.cpu.ops')
    logger.setLevel(logging.ERROR)


def _defer_optional_optimizers() -> None:
    """Let mmengine import bitsandbytes and transformers only when needed.

    ``mmengine.optim`` registers the optimizers of both libraries as soon as
    it is imported, which loads bitsandbytes, peft and torch._inductor (2.7 of
    5.2 seconds of ``import minigpt4``). Here they are registered, by the same
    functions of mmengine, when the registry is first asked for a name that
    torch's optimizers do not have, e.g. ``type='AdamW8bit'``. A class, e.g.
    ``type=bitsandbytes.optim.AdamW8bit``, needs no registry.

    Has no effect if ``mmengine.optim`` was imported before this package.
    """
    if 'mmengine.optim' in sys.modules:
        return
    with _not_importable('bitsandbytes', 'transformers'):
        import mmengine.optim  # noqa: F401
    from mmengine.registry import OPTIMIZERS

    OPTIMIZERS._module_dict = _Optimizers(OPTIMIZERS._module_dict)


@contextlib.contextmanager
def _not_importable(*names: str) -> Iterator[None]:
    """Let an import of these packages fail, as if they were not installed."""
    loaded = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, module in loaded.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Optimizers(dict[str, Any]):
    """The optimizers of mmengine's registry; optional ones on first use."""

    complete = False

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name) and not self.complete:
            self.complete = True
            from mmengine.optim.optimizer import builder

            builder.BITSANDBYTES_OPTIMIZERS += (
                builder.register_bitsandbytes_optimizers()
            )
            builder.TRANSFORMERS_OPTIMIZERS += (
                builder.register_transformers_optimizers()
            )
        return super().__contains__(name)


def _turn_off_mmpretrain_multimodal() -> None:
    """Let ``mmpretrain.models`` import on transformers 4.50 and above.

    MMPretrain's own multimodal models import names that transformers has
    removed and die with ``TypeError: NoneType takes no arguments``; as
    placeholders they leave the rest of MMPretrain usable.
    """
    import mmpretrain.utils.dependency as dependency

    dependency.WITH_MULTIMODAL = False


def _allow_mmengine_checkpoints() -> None:
    """Let torch >= 2.6 read mmengine's checkpoints with ``weights_only``.

    They hold these few classes in addition to tensors (mmengine issue 1655). A
    ``HistoryBuffer`` is restored from its numbers alone: mmengine's own
    ``__setstate__`` lets a file replace the methods of all histories.
    """
    import numpy
    from mmengine.logging.history_buffer import HistoryBuffer

    class LoadedHistory(HistoryBuffer):
        """A history of a file, which becomes a plain ``HistoryBuffer``."""

        def __setstate__(self, state: dict) -> None:
            values = state.get('_log_history')
            counts = state.get('_count_history')
            for array in (values, counts):
                if not isinstance(array, numpy.ndarray) or array.ndim != 1:
                    raise ValueError(
                        'a history of the log is not a 1-D array.'
                    )
                if not numpy.issubdtype(array.dtype, numpy.number):
                    raise ValueError('a history of the log holds no numbers.')
            HistoryBuffer.__init__(self, values, counts)
            self.__class__ = HistoryBuffer

    def method_name(owner: type, name: str) -> str:
        """Replaces ``getattr``, by which a history gets its methods."""
        if owner is not LoadedHistory:
            raise ValueError(
                f'a checkpoint asks for {name} of {owner!r}; only methods of '
                'HistoryBuffer may be named.'
            )
        return name

    multiarray = importlib.import_module(
        'numpy._core.multiarray'
        if hasattr(numpy, '_core')
        else 'numpy.core.multiarray'
    )
    dtypes = [
        type(numpy.dtype(kind))
        for kind in (
            *('float64', 'float32', 'float16', 'int64', 'int32', 'int16'),
            *('int8', 'uint8', 'bool'),
        )
    ]
    # NumPy 1 and 2 write the same functions under two names
    others = [
        (getattr(multiarray, name), f'{module}.multiarray.{name}')
        for module in ('numpy.core', 'numpy._core')
        for name in ('_reconstruct', 'scalar')
    ]
    torch.serialization.add_safe_globals(
        [
            (LoadedHistory, 'mmengine.logging.history_buffer.HistoryBuffer'),
            multiarray._reconstruct,
            multiarray.scalar,
            numpy.ndarray,
            numpy.dtype,
            *dtypes,
            *others,
            (method_name, 'builtins.getattr'),
        ]
    )


def builds_on_meta() -> bool:
    """Whether modules are built without memory: ``torch.device('meta')``.

    ``torch.get_default_device`` of torch 2.6 does not notice the context.
    """
    return torch.empty(0).is_meta


def dtype_argument(dtype: torch.dtype) -> dict:
    """The keyword under which transformers takes a type.

    transformers 4.56 renamed ``torch_dtype`` to ``dtype``.
    """
    return {'dtype' if _transformers() >= (4, 56) else 'torch_dtype': dtype}


def muon(matrices: list, **settings: Any) -> torch.optim.Optimizer:
    """The optimizer Muon, which torch 2.9 added.

    Args:
        matrices: The parameters.
        settings: Other arguments of ``torch.optim.Muon``.

    Raises:
        ImportError: torch is older.
    """
    if not hasattr(torch.optim, 'Muon'):
        raise ImportError(
            f'torch {torch.__version__} has no Muon, with which the nano LLM '
            'is pretrained; install torch 2.9 or newer.'
        )
    return torch.optim.Muon(matrices, **settings)


def quantises_on_cpu() -> bool:
    """Whether transformers lets bitsandbytes work without a GPU.

    4.49 does not (``'frozenset' object has no attribute 'discard'``).
    """
    return _transformers() >= (5, 0)


def transformers_name() -> str:
    """``'transformers 5.17.0'``, for errors."""
    import transformers

    return f'transformers {transformers.__version__}'


def _transformers() -> tuple[int, ...]:
    import transformers

    return tuple(map(int, transformers.__version__.split('.')[:2]))


def keep_gradients_of_4bit(llm: torch.nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights for a CPU.

    On CPUs with AVX-512 BF16, bitsandbytes packs a layer's weights the first
    time that it runs without gradients, and the product with packed weights
    has no gradient: a training would go on with gradients of 0.
    """
    module: Any
    for module in llm.modules():
        if hasattr(module, 'support_avx512bf16_for_cpu'):
            module.support_avx512bf16_for_cpu = False


def register_attention(name: str, function: Callable[..., Any]) -> None:
    """Let transformers' LLMs attend through a function of ours."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # a dict that became a mapping in transformers 4.51; both know update
    ALL_ATTENTION_FUNCTIONS.update({name: function})


def keys_and_values(cache: Any) -> list:
    """The keys and values of each layer of a transformers cache."""
    if hasattr(cache, 'layers'):  # since transformers 4.54
        return [(layer.keys, layer.values) for layer in cache.layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))


def attends_to_all(config: Any) -> bool:
    """Whether a cache of this LLM is keys and values of all tokens alone.

    A sliding window as long as the context hides no token.
    """
    from transformers import DynamicCache

    def hides_tokens(window: int | None) -> bool:
        context = getattr(config, 'max_position_embeddings', None)
        return window is not None and (context is None or window < context)

    if _transformers() >= (4, 56):  # the cache knows what its layers are
        from transformers.cache_utils import (
            DynamicLayer,
            DynamicSlidingWindowLayer,
        )

        return all(
            type(layer) is DynamicLayer
            or type(layer) is DynamicSlidingWindowLayer
            and not hides_tokens(layer.sliding_window)
            for layer in DynamicCache(config=config).layers
        )
    window = getattr(config, 'sliding_window', None)
    return not hides_tokens(window) or (
        getattr(config, 'use_sliding_window', None) is False
    )
