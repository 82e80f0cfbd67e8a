# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Right and worse descriptions of nano scenes."""

import random

from minigpt4.datasets import PreferenceDataset
from minigpt4.nano import grammar
from minigpt4.nano.preference_pairs import (
    rejected_description,
    repeated_sentence,
    wrong_word,
)
from minigpt4.nano.world import sample_scene
from minigpt4.nano.write_dataset import write_dataset


def test_one_word_differs():
    rng = random.Random(0)
    for _ in range(50):
        text = grammar.description(sample_scene(rng))
        words, changed = text.split(), wrong_word(text, rng).split()
        assert len(words) == len(changed)
        assert sum(a != b for a, b in zip(words, changed, strict=True)) == 1
        assert changed[-1].endswith('.')


def test_one_sentence_is_repeated():
    rng = random.Random(0)
    for _ in range(20):
        text = grammar.description(sample_scene(rng))
        worse = repeated_sentence(text, rng)
        assert worse.startswith(f'{text} ') and worse.endswith('.')
        assert grammar.failure('describe', worse, True) == 'repeated'


def test_both_kinds_are_drawn():
    rng = random.Random(0)
    scene = sample_scene(rng)
    failures = [
        grammar.failure('describe', rejected_description(scene, rng), True)
        for _ in range(100)
    ]
    assert 5 < failures.count('repeated') < 40
    assert set(failures) == {None, 'repeated'}


def test_pairs_of_the_data_set(tmp_path):
    write_dataset(
        tmp_path, pairs=1, descriptions=1, test_scenes=3, preferences=4
    )
    train = PreferenceDataset(data_root=str(tmp_path / 'preference'))
    held_out = PreferenceDataset(data_root=str(tmp_path / 'test'))
    assert (len(train), len(held_out)) == (4, 3)
    for dataset in (train, held_out):
        for record, (_, source) in zip(
            dataset.records, dataset.image_sources(), strict=True
        ):
            (turn,) = record['turns']
            assert turn.answer.startswith('The image shows')
            assert record['rejected'] != turn.answer
            with open(source, 'rb') as file:
                assert file.read(2) == b'\xff\xd8'  # JPEG


def test_other_data_are_the_same_without_pairs(tmp_path):
    for number in (0, 2):
        write_dataset(
            tmp_path / str(number),
            pairs=1,
            descriptions=1,
            test_scenes=2,
            preferences=number,
        )
    for name in ('test/test.json', 'stage2/image/0.jpg', 'test/image/1.jpg'):
        files = [tmp_path / str(number) / name for number in (0, 2)]
        assert files[0].read_bytes() == files[1].read_bytes()
