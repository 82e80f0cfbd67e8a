# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the normalisation of images that a Hugging Face folder states."""

from pathlib import Path

from .hf_folder_files import display_text, read_json

# transformers 5 may write the image processor into the processor's file
_FILES = ('preprocessor_config.json', 'processor_config.json')


def read_normalization(
    folder: Path,
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation of the RGB channels.

    Args:
        folder: A checked folder.

    Returns:
        They are for images in 0..1; None if the folder has no file of an
        image processor.

    Raises:
        ValueError: The file is damaged, or scales pixels to another range.
    """
    for name in _FILES:
        path = folder / name
        if not path.is_file():
            continue
        settings = read_json(path)
        settings = settings.get('image_processor', settings)
        if 'image_mean' not in settings:
            continue
        scale = settings.get('rescale_factor', 1 / 255)
        if not settings.get('do_rescale', True) or abs(scale * 255 - 1) > 1e-4:
            raise ValueError(
                f'{path} scales pixels by {display_text(scale)}; expected '
                '1 / 255, the only scale that ImageNormalizer has.'
            )
        if not settings.get('do_normalize', True):
            return (0.0,) * 3, (1.0,) * 3
        return (
            _three_numbers(path, settings, 'image_mean'),
            _three_numbers(path, settings, 'image_std'),
        )
    return None


def _three_numbers(path: Path, settings: dict, key: str) -> tuple[float, ...]:
    values = settings.get(key)
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(type(value) in (int, float) for value in values)
    ):
        raise ValueError(
            f'{path} has {key} {display_text(values)}; expected three numbers.'
        )
    return tuple(float(value) for value in values)
