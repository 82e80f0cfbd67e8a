# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which reference caption an image has, and the share of yes."""

from collections import Counter
from pathlib import Path

import pytest

from minigpt4.evaluation.coverage import (
    PUBLISHED,
    References,
    choose_reference,
    judge_questions,
    score_coverage,
)

CAPTIONS = ['a', 'b', 'c', 'd', 'e']


def chosen(seed):
    return [
        choose_reference(str(i), CAPTIONS, 'random', seed) for i in range(1000)
    ]


def test_references_are_chosen_by_seed_and_id():
    assert chosen(0) == chosen(0) != chosen(1)
    # of 1,000 each of 5 is expected 200 times, with a deviation of 12.6
    counts = Counter(chosen(0))
    assert set(counts) == set(CAPTIONS)
    assert all(140 < number < 260 for number in counts.values())
    assert {
        choose_reference(str(i), CAPTIONS, 'first', i) for i in range(9)
    } == {'a'}


def test_the_reference_of_an_image_does_not_depend_on_others():
    few = References({'7': CAPTIONS}, 'random', 3)
    many = References(
        {'COCO_val2014_000000000007.jpg': CAPTIONS, '8': ['x']}, 'random', 3
    )
    assert few.find(7) == many.find('7') == few.find('000000000007.jpg')
    assert few.find(8) is None and many.find(8) == ('8', 'x')


def test_captions_without_reference_are_counted():
    rows = [dict(image_id=i, caption=f'caption {i}') for i in (1, 2, 3)]
    references = References({'1': ['one'], '3': ['three']}, 'first', 0)
    questions, without = judge_questions(rows, references, Path('file'))
    assert without == ['2']
    assert [question.fields for question in questions] == [
        dict(image_id='1', reference='one', caption='caption 1'),
        dict(image_id='3', reference='three', caption='caption 3'),
    ]
    assert '‘one’, and there is another image caption2 ‘caption 1’' in (
        questions[0].message
    )


def test_an_answer_without_yes_or_no_is_no_yes():
    rows = [
        dict(
            key=str(i),
            answer=answer,
            model='m',
            date=f'2026-01-0{i + 1}',
            prompt_tokens=10,
            completion_tokens=2,
            cost_usd=0.5,
        )
        for i, answer in enumerate(('Yes.', 'no', 'Perhaps', 'yes'))
    ]
    rows.append({**rows[0], 'key': '9', 'answer': '', 'problem': 'cut off'})
    found = score_coverage(rows)
    assert (found['judged'], found['yes'], found['no']) == (4, 2, 1)
    assert found['unparsed'] == 1
    assert found['scores']['coverage']['value'] == 0.5
    # a failure is paid for too
    assert found['judge'] == dict(
        model='m',
        first_date='2026-01-01',
        last_date='2026-01-04',
        prompt_tokens=50,
        completion_tokens=10,
        cost_usd=2.5,
    )
    assert found['errors'] == [dict(image_id='9', error='cut off')]
    with pytest.raises(ValueError, match='about no caption .cut off'):
        score_coverage(rows[4:])


def test_the_published_shares():
    """Paper, appendix A.3: 27.5 % and 66.2 % of 5,000."""
    shares = {name: round(yes / total, 3) for name, yes, total in PUBLISHED}
    assert shares == {'BLIP-2': 0.275, 'MiniGPT-4': 0.662}
