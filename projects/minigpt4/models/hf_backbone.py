# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Vision models of transformers: CLIP, SigLIP and DINOv2."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import compat
from ..llm.load import load_config
from ..llm.locate import download_llm
from ..registry import MODELS
from ..utils.errors import one_line
from ..weights.check_llm_folder import find_faults
from ..weights.hf_folder_files import choose_weights
from ..weights.image_processor import read_normalization
from ..weights.load_frozen import local_path, torch_dtype
from .backbone import check_images
from .vision_fingerprint import quantise_vision_part

# model type: its class in transformers; SigLIP 2 of fixed size is a siglip
_CLASSES = {
    'clip_vision_model': 'CLIPVisionModel',
    'siglip_vision_model': 'SiglipVisionModel',
    'dinov2': 'Dinov2Model',
    'dinov2_with_registers': 'Dinov2WithRegistersModel',
}


@MODELS.register_module()
class HFVisionBackbone(nn.Module):
    """A vision model of transformers: images to its hidden states.

    Register tokens are dropped; a class token is kept. No code of the folder
    is run, see :mod:`~minigpt4.weights.hf_folder_safety`.

    Args:
        name_or_path: A folder, or the name of a repository of the Hugging
            Face hub, with a CLIP, SigLIP, or DINOv2 (with or without
            registers); of a CLIP or SigLIP only the vision model is loaded.
        layer: Index of the hidden states to return, e.g. -2 for the output of
            the last but one layer, as in LLaVA; None is the output of the
            model, with its final norm if it has one.
        img_size: Side of the square input in pixels; None is that of the
            folder. For another size transformers interpolates the position
            embeddings.
        dtype: ``'auto'`` (bf16 or fp16 on a GPU, fp32 on a CPU) or the name
            of a floating-point type.
        frozen: Whether the weights are not trained; then no graph is built
            and the module stays in eval mode.
        linear_dtype: ``'int8'`` or ``'float8'`` for linear layers that
            multiply in 8 bits; see :mod:`~.frozen_linear`. None is ``dtype``.

    Attributes:
        normalization: That of the folder's ``preprocessor_config.json``; None
            if it has none.

    Raises:
        FileNotFoundError: There is no such folder, or it lacks a file.
        ValueError: It is refused, or of another type.
    """

    def __init__(
        self,
        name_or_path: str,
        layer: int | None = None,
        img_size: int | None = None,
        dtype: str = 'auto',
        frozen: bool = True,
        linear_dtype: str | None = None,
    ) -> None:
        super().__init__()
        import transformers

        folder = vision_folder(name_or_path)
        config = load_config(folder)
        config = getattr(config, 'vision_config', config)
        if config.model_type not in _CLASSES:
            raise ValueError(
                f'{folder} holds a model of type {config.model_type}; '
                f'HFVisionBackbone takes {", ".join(_CLASSES)}.'
            )
        layers = config.num_hidden_layers
        if layer is not None and not -layers - 1 <= layer <= layers:
            raise ValueError(
                f'HFVisionBackbone has layer={layer}, but {folder} has '
                f'{layers} layers; give a number from {-layers - 1} to '
                f'{layers}.'
            )
        self.name = config.model_type
        self.layer = layer
        self.settings = dict(layer=layer)
        self.frozen = frozen
        self.normalization = read_normalization(folder)
        self.img_size = config.image_size if img_size is None else img_size
        side = self.img_size // config.patch_size
        if side * config.patch_size != self.img_size:
            raise ValueError(
                f'HFVisionBackbone has img_size={self.img_size}, which is no '
                f'multiple of the {config.patch_size} pixels of a patch; give '
                'a multiple.'
            )
        self.grid_size = (side, side)
        self.out_channels = config.hidden_size
        self.num_class_tokens = int(self.name != 'siglip_vision_model')
        self._registers = getattr(config, 'num_register_tokens', 0)
        # DINOv2 interpolates by itself
        self._options: dict = {}
        if self.img_size != config.image_size and 'dino' not in self.name:
            self._options['interpolate_pos_encoding'] = True
        weights_dtype = torch_dtype(dtype) if frozen else torch.float32
        kind = _CLASSES[self.name]
        if compat.builds_on_meta():
            self.model = getattr(transformers, kind)(config)
        else:
            self.model = _load_model(folder, kind, weights_dtype)
        self.requires_grad_(not frozen)
        quantise_vision_part(self, linear_dtype, 'backbone')
        self.train()

    def train(self, mode: bool = True) -> 'HFVisionBackbone':
        """Set the mode; a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Compile the model as a whole."""
        self.model.compile(backend=backend)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: ``(B, 3, img_size, img_size)``, normalised, any float.

        Returns:
            ``(B, num_class_tokens + h * w, out_channels)`` in the module's
            dtype, the class token first.

        Raises:
            ValueError: The images have another size.
        """
        check_images(images, self.img_size)
        output = self.model(
            images.to(next(self.model.parameters()).dtype),
            output_hidden_states=self.layer is not None,
            **self._options,
        )
        tokens = output.last_hidden_state
        if self.layer is not None:
            tokens = output.hidden_states[self.layer]
        if not self._registers:
            return tokens
        patches = tokens[:, 1 + self._registers :]
        return torch.cat((tokens[:, :1], patches), dim=1)


def vision_folder(name_or_path: str) -> Path:
    """Return the folder of a vision model after checking it.

    Raises:
        FileNotFoundError: There is none, it cannot be downloaded, or it lacks
            a file.
        ValueError: It names code to run, or one of its files is damaged.
    """
    folder = local_path(name_or_path, 'vision model')
    if folder is None:
        try:
            folder = Path(download_llm(name_or_path))
        except Exception as error:  # the hub's errors have no common base
            raise FileNotFoundError(
                f'the vision model {name_or_path!r} is no local folder and '
                f'could not be downloaded from a hub ({one_line(error)}); '
                'download it and set backbone.name_or_path to its folder.'
            ) from error
    for fault in find_faults(folder, tokenizer=False):
        raise fault.error()
    return folder


def _load_model(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """Load the weights of a vision model.

    Args:
        folder: A checked folder.
        kind: Name of the class in transformers.
        dtype: Type of the weights.

    Raises:
        ValueError: They are damaged, or not of this class.
    """
    import transformers

    arguments: dict = dict(
        attn_implementation='sdpa',
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # refused below, with their names
    )
    if str(choose_weights(folder)).startswith('pytorch_model'):
        arguments['use_safetensors'] = False
    arguments |= compat.dtype_argument(dtype)
    # it would warn of the tensors of a whole CLIP's text model, one by one
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        # transformers 4 draws weights before it reads them, which would
        # change the first weights of the projection
        with torch.random.fork_rng(devices=[]):
            model, report = getattr(transformers, kind).from_pretrained(
                str(folder), output_loading_info=True, **arguments
            )
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # damaged weights may raise anything
        raise ValueError(
            f'the weights of the vision model {folder} cannot be loaded '
            f'({type(error).__name__}: {one_line(error).rstrip(".")}); are '
            'they of the model that its config.json describes? Else download '
            'them again.'
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    mismatched = {name for name, *_ in report['mismatched_keys']}
    lacking = sorted({*report['missing_keys'], *mismatched})
    if lacking:
        raise ValueError(
            f'the weights of the vision model {folder} lack {len(lacking)} '
            f'tensors of {kind} or have them in another shape, e.g. '
            f'{lacking[0]}; give a complete model.'
        )
    return model
