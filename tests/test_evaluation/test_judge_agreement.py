# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How far two judges agree, counted by hand."""

import json

import pytest

from minigpt4.evaluation.judge_agreement import compare_judges, print_agreement


@pytest.fixture
def folder(tmp_path):
    """Writes judgements: reference, caption and answer by key."""

    def write(name, judgements):
        path = tmp_path / name
        path.mkdir()
        rows = [
            dict(
                key=key,
                reference=reference,
                caption=caption,
                answer=answer,
                model=f'judge {name}',
                date='2026-01-01',
                prompt_tokens=1,
                completion_tokens=1,
                cost_usd=0,
            )
            for key, (reference, caption, answer) in judgements.items()
        ]
        text = ''.join(json.dumps(row) + '\n' for row in rows)
        (path / 'judgements.jsonl').write_text(text)
        return path

    return write


def test_only_equal_texts_are_compared(folder, capsys):
    first = folder(
        '1',
        {
            'a': ('r', 'c', 'yes'),
            'b': ('r', 'c', 'Yes.'),
            'c': ('r', 'c', 'no'),
            'd': ('r', 'c', 'perhaps'),
            'e': ('r', 'c', 'yes'),  # another reference
            'f': ('r', 'c', 'yes'),  # another caption
            'g': ('r', 'c', 'yes'),  # only here
        },
    )
    second = folder(
        '2',
        {
            'd': ('r', 'c', 'no'),
            'a': ('r', 'c', 'yes'),
            'b': ('r', 'c', 'no'),
            'c': ('r', 'c', 'no'),
            'e': ('s', 'c', 'yes'),
            'f': ('r', 'd', 'yes'),
        },
    )
    found = compare_judges(first, second)
    assert found['judges'] == ['judge 1', 'judge 2']
    assert (found['both'], found['equal'], found['other_texts']) == (4, 2, 2)
    assert found['agreement'] == 0.5
    # by chance: (2 * 1 + 1 * 3) / 4**2 = 5/16
    assert found['kappa'] == pytest.approx((8 - 5) / (16 - 5), abs=1e-6)
    assert found['table'] == {
        'no, no': 1,
        'unparsed, no': 1,
        'yes, no': 1,
        'yes, yes': 1,
    }
    print_agreement(found)
    printed = capsys.readouterr().out
    assert 'equal        2 (50.00%)' in printed
    assert 'not compared: 2 with other texts' in printed


def test_answers_of_another_model_are_other_texts(folder):
    """As of ``abilities``: a request and what was generated."""
    first = folder('1', {k: ('', '', 'yes') for k in 'abc'})
    second = folder('2', {k: ('', '', 'yes') for k in 'abc'})
    for path, texts in ((first, 'xyz'), (second, 'xya')):
        file = path / 'judgements.jsonl'
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row, text in zip(rows, texts, strict=True):
            row.update(prompt='Draft.', generated=text)
        file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    found = compare_judges(first, second)
    assert (found['both'], found['other_texts']) == (2, 1)
    assert found['kappa'] is None


def test_no_equal_texts_are_refused(folder):
    first = folder('1', {'a': ('r', 'c', 'yes')})
    second = folder('2', {'a': ('r', 'd', 'yes')})
    with pytest.raises(ValueError, match='no decisions about the same texts'):
        compare_judges(first, second)
