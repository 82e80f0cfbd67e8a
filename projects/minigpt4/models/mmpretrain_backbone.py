# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Any backbone of MMPretrain that returns a feature map or tokens."""

import functools
import inspect
import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import MODELS
from ..utils.errors import one_line
from ..weights.load_frozen import load_weights, torch_dtype
from ..weights.position_embeddings import resize_lazily
from .backbone import Normalization, check_images, map_to_tokens

PREFIX = 'mmpretrain.'
_ADVICE = (
    "expected a feature map (B, C, H, W) or tokens (B, N, C); set out_type='"
    "raw' or 'featmap' for a ViT, gap_before_final_norm=False for a ConvNeXt"
)


@MODELS.register_module()
class MMPretrainBackbone(nn.Module):
    """A backbone of MMPretrain, with the interface of ours.

    ``backbone=dict(type='mmpretrain.ResNet', depth=50, img_size=224,
    checkpoint=...)`` of a model builds it. ``img_size``, ``checkpoint``,
    ``dtype`` and ``frozen`` are its own settings, all others those of
    MMPretrain's class. One image of zeros is encoded to find the shape of the
    output.

    Args:
        type: MMPretrain's class, or its name ``'mmpretrain.NAME'``.
        img_size: Side of the square input in pixels; the class gets it too,
            if it has a setting of that name. Position embeddings ``pos_embed``
            of a checkpoint for another size are interpolated.
        checkpoint: File, folder or URL of the weights, with or without the
            prefix ``backbone.`` of MMPretrain's classifiers; None leaves them
            random.
        dtype: ``'auto'`` (bf16 or fp16 on a GPU, fp32 on a CPU) or the name
            of a floating-point type.
        frozen: Whether the weights are not trained; then no graph is built
            and the module stays in eval mode.
        settings: Settings of MMPretrain's class.

    Attributes:
        name: The class, with MMPretrain's scope.

    Raises:
        ValueError: The class cannot be built, or returns neither a feature
            map nor tokens.
    """

    # MMPretrain's checkpoints do not contain it
    normalization: Normalization | None = None

    def __init__(
        self,
        type: Any,
        img_size: int = 224,
        checkpoint: str | None = None,
        dtype: str = 'auto',
        frozen: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__()
        kind = _find_class(type)
        self.name = f'{PREFIX}{kind.__name__}'
        self.img_size = img_size
        self.frozen = frozen
        if 'init_cfg' in settings:
            raise ValueError(
                f'the backbone {self.name} has init_cfg, which is not used '
                'here; set checkpoint to the file of its weights.'
            )
        self.settings = json.loads(json.dumps(settings, default=str))
        if _takes_size(kind):
            settings['img_size'] = img_size
        try:
            self.model = kind(**settings)
        except Exception as error:  # of the class; any type
            raise ValueError(
                f'the backbone {self.name} cannot be built with these '
                f'settings ({one_line(error)}); see its documentation in '
                'MMPretrain.'
            ) from error
        self._read_shape()
        weights_dtype = torch_dtype(dtype) if frozen else torch.float32
        if checkpoint is not None:
            self._load(checkpoint, weights_dtype)
        self.to(weights_dtype)
        self.requires_grad_(not frozen)
        self.train()

    @torch.no_grad()
    def _read_shape(self) -> None:
        """Encode one image, and set the attributes of the interface."""
        self.model.eval()
        side = self.img_size
        try:
            output = self.model(torch.zeros(1, 3, side, side))
        except Exception as error:  # of the class; any type
            raise ValueError(
                f'the backbone {self.name} cannot encode images of {side} x '
                f'{side} pixels ({one_line(error)}); set its img_size.'
            ) from error
        features = self._last(output)
        self.extra_tokens = 0
        if features.ndim == 4:
            self.out_channels = features.shape[1]
            self.grid_size = (features.shape[2], features.shape[3])
        else:
            self.out_channels = features.shape[2]
            self.extra_tokens, self.grid_size = self._split(features.shape[1])
        self.num_class_tokens = min(self.extra_tokens, 1)

    def _last(self, output: Any) -> Tensor:
        """Return the only output of the class.

        Raises:
            ValueError: It is neither a feature map nor tokens.
        """
        if isinstance(output, (tuple, list)):
            if len(output) != 1:
                raise ValueError(
                    f'the backbone {self.name} returns {len(output)} outputs; '
                    'set out_indices to one stage.'
                )
            output = output[0]
        if not isinstance(output, Tensor) or output.ndim not in (3, 4):
            found = (
                f'a tensor of shape {tuple(output.shape)}'
                if isinstance(output, Tensor)
                else f'a {output.__class__.__name__}'
            )
            raise ValueError(
                f'the backbone {self.name} returns {found}; {_ADVICE}.'
            )
        return output

    def _split(self, tokens: int) -> tuple[int, tuple[int, int]]:
        """Return the number of extra tokens, and the grid of the patches."""
        extra = getattr(self.model, 'num_extra_tokens', None)
        grid = getattr(self.model, 'patch_resolution', None)
        if extra is not None and grid is not None:
            if extra + grid[0] * grid[1] == tokens:
                return extra, (grid[0], grid[1])
        for prefix in (0, 1):
            side = math.isqrt(tokens - prefix)
            if side > 0 and side * side == tokens - prefix:
                return prefix, (side, side)
        raise ValueError(
            f'the backbone {self.name} returns {tokens} tokens, which are no '
            "square of patches with or without a class token; set out_type='"
            "featmap'."
        )

    def _load(self, checkpoint: str, dtype: torch.dtype) -> None:
        """Load the weights of a classifier of MMPretrain, or of this class."""
        adapt = {}
        if getattr(self.model, 'pos_embed', None) is not None:
            adapt['pos_embed'] = functools.partial(
                resize_lazily,
                grid_size=getattr(
                    self.model, 'patch_resolution', self.grid_size
                ),
                num_class_tokens=getattr(
                    self.model, 'num_extra_tokens', self.extra_tokens
                ),
            )
        load_weights(
            self.model, 'mmpretrain_backbone', checkpoint, dtype, adapt
        )

    def train(self, mode: bool = True) -> 'MMPretrainBackbone':
        """Set the mode; a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Compile the backbone as a whole."""
        self.model.compile(backend=backend)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: ``(B, 3, img_size, img_size)``, normalised, any float.

        Returns:
            ``(B, num_class_tokens + h * w, out_channels)`` in the module's
            dtype; of several class tokens only the first.

        Raises:
            ValueError: The images have another size.
        """
        check_images(images, self.img_size)
        dtype = next(self.model.parameters()).dtype
        features = self._last(self.model(images.to(dtype)))
        if features.ndim == 4:
            return map_to_tokens(features)
        if self.extra_tokens < 2:
            return features
        patches = features[:, self.extra_tokens :]
        return torch.cat((features[:, :1], patches), dim=1)


def is_of_mmpretrain(kind: Any) -> bool:
    """Whether the type of a config is a class of MMPretrain."""
    if isinstance(kind, str):
        return kind.startswith(PREFIX)
    return str(getattr(kind, '__module__', '')).startswith(PREFIX)


def _takes_size(kind: Any) -> bool:
    """Whether a class has a setting ``img_size``.

    It may be that of a base class to which the class passes its keywords.
    """
    for base in inspect.getmro(kind):
        parameters = inspect.signature(base).parameters
        if 'img_size' in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def _find_class(kind: Any) -> Any:
    """Return a class of MMPretrain by its name.

    Raises:
        ValueError: There is none.
    """
    if not isinstance(kind, str):
        return kind
    import mmpretrain.models
    from mmpretrain.registry import MODELS as REGISTERED

    # a lazy config stores a class as its dotted path
    name = kind.rpartition('.')[2]
    found = getattr(mmpretrain.models, name, None) or REGISTERED.get(name)
    if found is None:
        raise ValueError(
            f'MMPretrain has no backbone {name}; its documentation lists '
            'them under mmpretrain.models.backbones.'
        )
    return found
