# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The caption metrics are those of COCO's caption scorer.

The expected figures are the output of pycocoevalcap 1.2 (OpenJDK 17.0.15,
2026-11-29) for the same texts, ``refs`` and ``caps`` being tokenized by its
``PTBTokenizer().tokenize``: ``Bleu(4).compute_score(refs, caps)``,
``Rouge().compute_score(refs, caps)``, ``Cider().compute_score(refs, caps)``.
"""

import json

import pytest

from minigpt4.evaluation.caption_metrics import score_caption_metrics

NAMES = ('bleu_1', 'bleu_2', 'bleu_3', 'bleu_4', 'rouge_l', 'cider')
CAPTIONS = {
    1: "A man's dog doesn't wait at the St. James station.",
    2: 'Two red-and-white buses, parked (side by side) on 5th street.',
    3: 'a cat',
    4: '',
    5: "There are 3 “STOP” signs… it's a quarter to 10:30 p.m.",
    6: 'A café sells 1/2 price pizza & crêpes for $2.50!!',
}
REFERENCES = {
    1: [
        "The man's dog does not wait at the station.",
        'A dog waits at St. James station.',
    ],
    2: [
        'Two buses are parked side by side on a street.',
        'Red and white buses on 5th street.',
        'buses',
    ],
    3: ['A cat sits on a mat.', 'a cat', 'The cat is black.'],
    4: ['Nothing.', 'An empty room.'],
    5: [
        'Three stop signs at 10:30 p.m.',
        'There are three "stop" signs.',
    ],
    6: [
        'A café with pizza and crêpes.',
        'Pizza for half the price: $2.50!!',
        'A man sells 1 1/2 pizza.',
    ],
}


def values_of(result) -> list[float]:
    return [result['scores'][name]['value'] for name in NAMES]


def near(*expected: float):
    return pytest.approx(expected, abs=1e-6)


def test_the_figures_are_those_of_the_scorer():
    result = score_caption_metrics(CAPTIONS, REFERENCES)
    assert values_of(result) == near(
        0.7799999999844001,
        0.5585696017389656,
        0.3793710741474839,
        0.19734336780506015,
        0.6067747704841618,
        1.5721430968884595,
    )
    assert result['captions'] == 6
    assert result['references'] == 15
    assert result['words'] == pytest.approx(50 / 6, abs=1e-6)


def test_one_image_has_no_cider():
    result = score_caption_metrics({1: CAPTIONS[1]}, REFERENCES)
    assert values_of(result) == near(
        0.916666666590278,
        0.7637626157594335,
        0.6156382500929999,
        0.40126711446224805,
        0.7672955974842767,
        0,
    )


def test_texts_without_a_word_are_scored():
    """Captions and references of no word, of one and of two."""
    captions = {0: '', 1: 'one', 2: '', 3: 'two three', 4: ''}
    references = {
        0: ['a'],
        1: ['one', ''],
        2: ['', ''],
        3: ['Two, three.'],
        4: ['a'],
    }
    assert values_of(score_caption_metrics(captions, references)) == near(
        0.5134171186903144,
        0.5134171185191755,
        0.005134171186332682,
        0.0005134171186903144,
        0.6,
        1.25,
    )


# Caption 1 of each image against its other captions, the first 1,000 images
# by the text of their ids.
@pytest.mark.parametrize(
    ('part', 'expected'),
    [
        (
            'train',
            (
                0.6354256233877295,
                0.4394364769681711,
                0.29797068953973643,
                0.20391471990582993,
                0.47153255761105756,
                0.8583676941546057,
            ),
        ),
        (
            'test',
            (
                0.6436619718306837,
                0.44658163887883295,
                0.30287090500060737,
                0.20538883317499992,
                0.48444630445740233,
                0.9389666578489577,
            ),
        ),
    ],
)
def test_photographs_have_the_figures_of_the_scorer(photos, part, expected):
    data = json.loads((photos / f'captions_{part}.json').read_text())
    texts: dict[str, list[str]] = {}
    for annotation in data['annotations']:
        texts.setdefault(str(annotation['image_id']), []).append(
            annotation['caption']
        )
    ids = sorted(texts)[:1000]
    result = score_caption_metrics(
        {id_: texts[id_][0] for id_ in ids},
        {id_: texts[id_][1:] for id_ in ids},
        resamples=20,
    )
    assert values_of(result) == near(*expected)


def test_a_number_with_a_fraction_is_two_words():
    # one token for ROUGE-L, of 2 in common: 1 of 2
    result = score_caption_metrics({1: '1 1/2 pizzas'}, {1: ['1 1/2 apples']})
    assert result['words'] == 3
    assert result['scores']['bleu_1']['value'] == pytest.approx(2 / 3)
    assert result['scores']['rouge_l']['value'] == pytest.approx(1 / 2)


def test_the_order_of_images_does_not_matter():
    turned = dict(reversed(CAPTIONS.items()))
    assert score_caption_metrics(turned, REFERENCES) == score_caption_metrics(
        CAPTIONS, REFERENCES
    )


def test_images_without_a_caption_are_not_counted():
    captions = {1: CAPTIONS[1], 2: CAPTIONS[2]}
    references = {1: REFERENCES[1], 2: REFERENCES[2]}
    assert score_caption_metrics(
        captions, REFERENCES
    ) == score_caption_metrics(captions, references)


def test_equal_images_have_an_interval_of_no_width():
    result = score_caption_metrics(
        {1: 'a red bus', 2: 'a red bus'},
        {1: ['a red car here'], 2: ['a red car here']},
    )
    for name in NAMES:
        score = result['scores'][name]
        assert score['interval'] == [score['value']] * 2


def test_the_interval_of_bleu_is_of_sums():
    """Right captions of one word, wrong ones of three."""
    captions = {i: 'dog' if i % 2 else 'x y z' for i in range(200)}
    references = {i: ['dog' if i % 2 else 'a b c'] for i in range(200)}
    bleu = score_caption_metrics(captions, references)['scores']['bleu_1']
    assert bleu['value'] == pytest.approx(1 / 4, abs=1e-6)
    # of n right ones of 200: n / (n + 3 (200 - n)), with a deviation of
    # 7.07 of n
    low, high = bleu['interval']
    assert low == pytest.approx(86 / (86 + 342), abs=0.015)
    assert high == pytest.approx(114 / (114 + 258), abs=0.015)


def test_a_caption_without_references_is_refused():
    for references in ({}, {7: []}):
        with pytest.raises(ValueError, match='image 7 has a caption and no'):
            score_caption_metrics({7: 'a'}, references)


def test_no_captions_are_refused():
    with pytest.raises(ValueError, match='there is no caption'):
        score_caption_metrics({}, REFERENCES)
