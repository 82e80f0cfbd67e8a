# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Pairs of answers to chosen and rejected sequences."""

import pytest

from minigpt4.models.pair_collator import PairCollator


def pair(make_sample, images, *texts, rejected):
    sample = make_sample(images, *texts)
    sample.set_metainfo(dict(id='7', rejected=rejected))
    return sample


@pytest.fixture
def samples(make_sample):
    return [
        pair(make_sample, [0], 'describe', 'the red circle.', rejected='blue'),
        pair(make_sample, [1], 'what', 'green', rejected='a small square.'),
        pair(make_sample, [], 'what is', 'in', rejected='of'),
    ]


@pytest.fixture
def collate(tiny_model):
    return PairCollator(tiny_model.collator(training=True))


def test_chosen_sequences_come_first(collate, samples):
    batch = collate([None, *samples])
    (piece,) = batch['pieces']
    chosen = collate.collator(samples)['pieces'][0]['inputs']
    count = len(chosen.targets)
    assert piece['inputs'].targets[:count].tolist() == chosen.targets.tolist()
    assert len(piece['images']) == 2
    assert len(piece['inputs'].target_counts) == 6
    assert piece['inputs'].target_counts[:3].sum() == count
    assert batch['counts']['samples'] == 3
    assert batch['counts']['skipped'] == 1


def test_image_tokens_are_those_of_both_halves(collate, samples, tiny_model):
    (piece,) = collate(samples)['pieces']
    positions = piece['inputs'].image_positions
    assert len(positions) == 2 * 2 * tiny_model.num_image_tokens
    assert len(set(positions.tolist())) == len(positions)


def test_pieces_have_whole_pairs(build_tiny, samples):
    model = build_tiny(micro_batch_size=2)
    batch = PairCollator(model.collator(training=True))(samples)
    sizes = [len(p['inputs'].target_counts) for p in batch['pieces']]
    assert sizes == [4, 2]


def test_only_the_last_answer_is_supervised(collate, make_sample):
    two = pair(
        make_sample,
        [0],
        *('what is this', 'a circle', 'what colour', 'red'),
        rejected='blue',
    )
    one = pair(make_sample, [0], 'what colour', 'red', rejected='blue')
    long, short = (collate([s])['pieces'][0]['inputs'] for s in (two, one))
    assert long.targets.tolist() == short.targets.tolist()


def test_a_pair_that_is_equal_after_truncation_is_skipped(
    build_tiny, make_sample, log
):
    model = build_tiny(max_text_length=2)
    text = 'the red circle on a square'
    sample = pair(make_sample, [0], 'what', text, rejected=f'{text} of blue')
    batch = PairCollator(model.collator(training=True))([sample])
    assert batch['counts']['skipped'] == 1
    assert batch['pieces'] == []
    assert 'sample 7 has two answers of the same tokens' in log[0]


def test_a_sample_without_a_rejected_answer_is_an_error(collate, make_sample):
    with pytest.raises(ValueError, match='has no rejected answer; expected'):
        collate([make_sample([0], 'what', 'red')])
