# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Descriptions that are joined from captions."""

import json

from minigpt4.datasets.caption_descriptions import describe

CAPTIONS = (
    'A man rides a brown horse along a wide sandy beach near the sea .',
    'A man on a horse at the beach',
    'a man on a horse at the beach',
    'Two people ride horses through a forest with tall old green trees.',
    'A rider in a blue shirt holds the reins while waves break behind him.',
    'The horse trots past a small wooden hut below a cloudy evening sky.',
)


def named(text):
    return [name for name in ('horse', 'person') if name in text]


def test_the_sentences_are_captions_and_one_list_of_objects():
    text = describe(CAPTIONS, ['horse', 'umbrella', 'dog', 'person'], named)
    sentences = text.split('. ')
    assert (
        sentences[-1] == 'The photo also shows a dog, people and an umbrella.'
    )
    cleaned = {c[0].upper() + c[1:].rstrip(' .') for c in CAPTIONS}
    assert set(sentences[:-1]) <= cleaned
    assert len(set(sentences)) == len(sentences)
    assert ' .' not in text
    assert 40 <= len(text.split()) <= 120
    assert text == describe(CAPTIONS, ['dog', 'person', 'umbrella'], named)


def test_a_caption_that_contradicts_the_number_of_people_comes_last():
    text = describe(CAPTIONS, [], named)
    assert 'Two people' not in text or text.index('Two people') == max(
        map(text.index, text.split('. '))
    )
    assert text.startswith('A man')


def test_too_short_captions_give_no_description():
    assert describe(['a cat', 'a dog'], ['tie'], named) is None


def test_many_long_captions_do_not_exceed_the_limit():
    captions = [f'{letter} ' * 30 for letter in 'abcdefgh']
    text = describe(captions, [], named)
    assert 40 <= len(text.split()) <= 120


def test_the_tool_writes_the_layout_of_stage_2(tmp_path, run_tool):
    from minigpt4.datasets import InstructionDataset

    records = [dict(image='0001.jpg', caption=text) for text in CAPTIONS]
    records.append(dict(image='b.jpg', caption='short'))
    (tmp_path / 'captions.json').write_text(json.dumps(records))
    (tmp_path / 'objects.json').write_text('{"1": ["horse", "dog"]}')
    printed = run_tool(
        'photo_descriptions.py',
        'captions.json',
        *('--objects', 'objects.json', '--out', 'out.json'),
        cwd=tmp_path,
    )
    assert '1 descriptions of 2 images' in printed
    dataset = InstructionDataset('out.json', data_root=str(tmp_path))
    (record,) = dataset.records
    assert record['images'] == ['0001']
    assert record['turns'][0].answer.endswith('The photo also shows a dog.')
