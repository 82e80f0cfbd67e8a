# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Other ways of scoring captions, counted by hand."""

import json

import pytest

from minigpt4.evaluation.chair_variants import (
    first_sentences,
    first_words,
    score_variants,
    variant_table,
)
from minigpt4_cli import main as cli


@pytest.mark.parametrize(
    ('text', 'number', 'cut'),
    [
        ('One. Two! Three? Four.', 1, 'One.'),
        ('One. Two! Three? Four.', 3, 'One. Two! Three?'),
        ('One. Two', 5, 'One. Two'),
        ('He said "No." Then 2.5 dogs.', 1, 'He said "No."'),
        ('Of 2.5 m. A dog', 1, 'Of 2.5 m.'),
        ('', 1, ''),
    ],
)
def test_sentences(text, number, cut):
    assert first_sentences(text, number) == cut


@pytest.mark.parametrize(
    ('text', 'number', 'cut'),
    [
        ("It's 3 dogs, and a cat", 2, "it's 3 dogs"),
        ('A dog', 5, 'a dog'),
        ('', 5, ''),
    ],
)
def test_words(text, number, cut):
    assert first_words(text, number) == cut


def rows_of(*captions):
    return [dict(image_id=i, caption=text) for i, text in enumerate(captions)]


def scored(rows, truth, truths=()):
    found = score_variants(rows, truth, dict(truths))
    return {row['name'].split(':')[0]: row for row in found}


def test_words_change_the_mentions():
    rows = rows_of('Two cats and a hot dog.', 'A toilet seat. A coffee table.')
    found = scored(rows, {'0': ['cat', 'hot dog'], '1': ['toilet']})
    mentions = {name: row['mentions'] for name, row in found.items()}
    invented = {name: row['invented'] for name, row in found.items()}
    # cat, hot dog, toilet
    assert (mentions['as above'], invented['as above']) == (3, 0)
    # "cats" is no mention
    assert mentions['plurals not made singular'] == 2
    # "dog" is one; of "toilet seat" both words, "coffee table" is known
    assert mentions['"hot dog" is a dog'] == 4
    assert invented['"hot dog" is a dog'] == 2
    # "toilet", "seat" and "table" are mentions
    assert mentions['"toilet seat" is a seat'] == 5
    assert invented['"toilet seat" is a seat'] == 2


def test_length_and_truth_change_the_scores():
    text = 'A cat. A dog. A cup. ' + 'word ' * 20 + 'A car.'
    found = scored(
        rows_of(text),
        {'0': ['cat']},
        {'other.json': {'0': ['cat', 'dog', 'cup', 'car']}},
    )
    chair_i = {name: row['chair_i'] for name, row in found.items()}
    assert chair_i == pytest.approx(
        {
            'as above': 3 / 4,
            'plurals not made singular': 3 / 4,
            '"hot dog" is a dog': 3 / 4,
            '"toilet seat" is a seat': 3 / 4,
            'first sentence': 0,
            'first 3 sentences': 2 / 3,
            'first 5 sentences': 3 / 4,
            'first 20 words': 2 / 3,
            'first 50 words': 3 / 4,
            'first 100 words': 3 / 4,
            'truth': 0,
        },
        abs=1e-6,
    )
    assert found['truth']['recall'] == 1


def test_the_table_states_changes():
    found = score_variants(rows_of('A cat. A dog.'), {'0': ['cat']}, {})
    lines = variant_table(found)
    assert lines[0].split() == [
        'variant', 'captions', 'CHAIR_i', 'CHAIR_s', 'recall',
    ]  # fmt: skip
    assert lines[1].split() == [
        'as',
        'above',
        '1',
        '50.00',
        '100.00',
        '100.00',
    ]
    first = next(line for line in lines if line.startswith('first sentence '))
    assert first.split()[3:] == [
        '0.00', '(-50.00)', '0.00', '(-100.00)', '100.00', '(+0.00)',
    ]  # fmt: skip


def test_other_truths_are_options(tmp_path, capsys):
    captions, truth, other = (tmp_path / name for name in ('c', 't', 'o.json'))
    captions.write_text('{"image_id": 1, "caption": "A dog."}')
    truth.write_text('{"1": ["dog"]}')
    other.write_text('{"1": ["cat"]}')
    options = ['eval', 'chair', '--captions', captions, '--truth', truth]
    options = [*map(str, options), '--variant-truth', str(other)]
    with pytest.raises(SystemExit):
        cli.main(options)
    assert cli.main([*options, '--variants']) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith('truth: o.json') and '100.00' in line


def test_the_published_figures_are_the_first_way(evaluation_data):
    folder = evaluation_data / 'chair'
    truth = json.loads((folder / 'coco_objects.json').read_text())
    file = folder / 'minigpt4_13b_long.jsonl'
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = scored(rows, truth)
    published = found['as above']
    assert published['chair_i'] == pytest.approx(0.092, abs=0.001)
    assert published['chair_s'] == pytest.approx(0.315, abs=0.001)
    assert found['plurals not made singular']['chair_s'] == 0.2625
