# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The normalisation that a Hugging Face folder states."""

import json

import pytest
import transformers

from minigpt4.weights.image_processor import read_normalization

NUMBERS = dict(image_mean=[0.5, 0.4, 0.3], image_std=[0.25, 0.3, 0.5])


@pytest.mark.parametrize(
    'name', ['CLIPImageProcessor', 'SiglipImageProcessor']
)
def test_equal_to_the_processor_of_transformers(tmp_path, name):
    processor = getattr(transformers, name)()
    processor.save_pretrained(tmp_path)
    mean, std = read_normalization(tmp_path)
    assert mean == tuple(processor.image_mean)
    assert std == tuple(processor.image_std)


def test_the_file_of_a_whole_processor(tmp_path):
    assert read_normalization(tmp_path) is None
    path = tmp_path / 'processor_config.json'
    path.write_text(json.dumps(dict(processor_class='CLIPProcessor')))
    assert read_normalization(tmp_path) is None
    path.write_text(json.dumps(dict(image_processor=NUMBERS)))
    assert read_normalization(tmp_path) == ((0.5, 0.4, 0.3), (0.25, 0.3, 0.5))


def test_other_scales_are_refused(tmp_path):
    path = tmp_path / 'preprocessor_config.json'
    path.write_text(json.dumps({**NUMBERS, 'do_normalize': False}))
    assert read_normalization(tmp_path) == ((0, 0, 0), (1, 1, 1))
    path.write_text(json.dumps({**NUMBERS, 'rescale_factor': 1.0}))
    with pytest.raises(ValueError, match='scales pixels by 1.0; expected 1'):
        read_normalization(tmp_path)
    path.write_text(json.dumps({**NUMBERS, 'image_std': 'large'}))
    with pytest.raises(ValueError, match='image_std large; expected three'):
        read_normalization(tmp_path)
