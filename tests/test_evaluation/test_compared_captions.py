# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Comparisons of two results of ``captions``, computed by hand."""

import json
import re

import pytest

from minigpt4.evaluation.compare import compare_results
from minigpt4.evaluation.compared_folder import read_results
from minigpt4_cli import main as cli

REFERENCES = {
    1: 'a dog runs fast',
    2: 'two cats sleep here',
    3: 'the red bus waits',
}
EXACT = dict(REFERENCES)


@pytest.fixture
def captions_folder(tmp_path):
    """Writes a result folder of captions, of captions by image id."""

    def write(name, captions, references=REFERENCES):
        file = tmp_path / f'{name}.jsonl'
        rows = [dict(image_id=i, caption=c) for i, c in captions.items()]
        file.write_text('\n'.join(map(json.dumps, rows)))
        annotations = tmp_path / f'{name}-references.json'
        annotations.write_text(
            json.dumps(
                dict(
                    images=[
                        dict(id=i, file_name=f'{i:012d}.jpg')
                        for i in references
                    ],
                    annotations=[
                        dict(id=i, image_id=i, caption=text)
                        for i, text in references.items()
                    ],
                )
            )
        )
        folder = tmp_path / name
        words = ('--captions', file, '--annotations', annotations)
        status = cli.main(
            ['eval', 'captions', *map(str, words), '-o', str(folder)]
        )
        assert status == 0
        return folder

    return write


def compare(first, second, **options):
    return compare_results(
        read_results(first), read_results(second), **options
    )


def test_two_captions_are_compared_by_hand(captions_folder):
    first = captions_folder('1', {1: EXACT[1], 2: EXACT[2]})
    second = captions_folder('2', {1: EXACT[1], 2: 'two cats run fast'})
    found = compare(first, second)
    scores = found.summary['scores']
    expected = dict(
        # words: 4 + 2 of 8, pairs: 3 + 1 of 6
        bleu_1=6 / 8,
        bleu_2=(6 / 8 * 4 / 6) ** 0.5,
        # 2 of 4 words in their order
        rouge_l=(1 + 2 / 4) / 2,
        # all n-grams of a reference are of one image, so all have one weight:
        # the cosines of image 2 are 2 of 4 words and 1 of 3 pairs
        cider=(10 + 10 * (2 / 4 + 1 / 3) / 4) / 2,
    )
    for name, value in expected.items():
        highest = 10 if name == 'cider' else 1
        assert scores[name]['first'] == pytest.approx(highest, abs=1e-6)
        assert scores[name]['second'] == pytest.approx(value, abs=1e-6)
        # each of the four ways to swap gives this difference or its opposite
        assert scores[name]['p'] == 1
    # draws of image 1 alone do not differ, those of image 2 alone do most
    low, high = scores['rouge_l']['interval']
    assert (low, high) == (-0.5, 0)
    # BLEU of the sums of a draw, no mean: of image 2 alone 2 of 4 words
    assert scores['bleu_1']['interval'] == pytest.approx([-0.5, 0], abs=1e-6)
    (pair,) = found.pairs
    assert pair.first.key == '2'
    assert pair.distance == pytest.approx(1 - (2 / 4 + 1 / 3) / 4)
    assert pair.second.note == 'ROUGE-L 0.500, CIDEr 2.083'
    assert found.summary['good'] is None


def test_scores_are_those_of_the_summaries(captions_folder):
    folders = (
        captions_folder('1', EXACT),
        captions_folder('2', {1: 'a dog', 2: '', 3: 'The red bus, waits!'}),
    )
    found = compare(*folders).summary['scores']
    for side, folder in zip(('first', 'second'), folders, strict=True):
        stored = json.loads((folder / 'summary.json').read_text())
        values = {name: s['value'] for name, s in stored['scores'].items()}
        assert {name: s[side] for name, s in found.items()} == values


def test_cider_depends_on_the_compared_images_alone(captions_folder):
    other = {1: EXACT[1], 2: 'two cats run fast'}
    first = captions_folder('1', EXACT)
    second = captions_folder('2', other)
    third = captions_folder('3', {1: EXACT[1], 2: EXACT[2]})
    found = compare(first, second).summary
    assert found['first']['only_here'] == 1 and found['images'] == 2
    assert found['scores'] == compare(third, second).summary['scores']


def test_ids_of_one_image_are_the_same_sample(captions_folder):
    first = captions_folder('1', {1: EXACT[1], 77: 'a house'})
    second = captions_folder('2', {'000000000001': 'a dog'})
    found = compare(first, second).summary
    assert found['samples'] == 1
    assert found['first']['without_truth'] == 1


def test_other_references_are_refused(captions_folder):
    first = captions_folder('1', {1: 'a dog'})
    second = captions_folder('2', {1: 'a dog'}, {1: 'one dog'})
    with pytest.raises(ValueError, match='1 is not the same in .*reference'):
        compare(first, second)
    third = captions_folder('3', {2: 'a dog'})
    with pytest.raises(ValueError, match='no sample in common'):
        compare(first, third)


def test_references_that_are_missing_or_damaged(captions_folder):
    folder = captions_folder('1', {1: 'a dog'})
    file = folder / 'references.json'
    file.write_text('[')
    with pytest.raises(ValueError, match='is not JSON .*writes it again'):
        read_results(folder)
    for content in ('[]', '{"1": 5}', '{"1": {"image": "1"}}'):
        file.write_text(content)
        with pytest.raises(ValueError, match='has no reference captions'):
            read_results(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r'no references\.json'):
        read_results(folder)


def test_a_damaged_caption_is_named(captions_folder):
    folder = captions_folder('1', {1: 'a dog'})
    (folder / 'captions.jsonl').write_text('{"image_id": 1, "caption": 5}\n')
    with pytest.raises(ValueError, match=r'line 1 .*caption is no text'):
        read_results(folder)


def test_the_comparison_is_printed_and_written(
    captions_folder, tmp_path, capsys
):
    first = captions_folder('1', EXACT)
    second = captions_folder('2', EXACT | {2: '<i>two</i> cats'})
    capsys.readouterr()
    page, data = tmp_path / 'page.html', tmp_path / 'data.json'
    words = ('compare', first, second, '-o', page, '--json', data)
    assert cli.main([*map(str, words)]) == 0
    out = capsys.readouterr().out
    assert re.search(r'ROUGE-L +1\.000', out) and 'McNemar' not in out
    assert '1 captions whose ROUGE-L or CIDEr differ' in out
    assert '2 (truth: two cats sleep here)' in out
    html = page.read_text()
    assert '&lt;i&gt;two&lt;/i&gt; cats' in html and 'McNemar' not in html
    assert 'ROUGE-L 1.000, CIDEr 10.000' in html
    found = json.loads(data.read_text())
    assert [row['id'] for row in found['differing']] == ['2']
