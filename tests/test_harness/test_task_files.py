# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tasks of lmms-eval about photographs, and the tool that writes them."""

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from minigpt4.harness import task_functions

ROOT = Path(__file__).parents[2]


@pytest.fixture
def main():
    spec = importlib.util.spec_from_file_location(
        'lmms_eval_tasks', ROOT / 'tools' / 'lmms_eval_tasks.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number in (139, 285, 632):
        Image.new('RGB', (9, 6)).save(folder / f'{number:012d}.jpg')
    (tmp_path / 'objects.json').write_text(
        '{"139": ["chair", "tv"], "285": ["bear"], "7": ["dog"]}'
    )
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tasks_about_objects(main, photos, tmp_path, capsys):
    out = tmp_path / 'tasks'
    objects = tmp_path / 'objects.json'
    main([str(photos), '--objects', str(objects), '--out', str(out)])
    rows = lines(out / 'photos_caption.jsonl')
    assert [(r['image_id'], r['classes']) for r in rows] == [
        ('139', ['chair', 'tv']),
        ('285', ['bear']),
    ]
    assert rows[0]['photo'] == str(photos / '000000000139.jpg')
    assert 'photos_caption: 2 documents' in capsys.readouterr().out
    names = sorted(path.stem for path in out.glob('*.yaml'))
    assert names == [
        'photos_caption',
        'photos_yes_no_adversarial',
        'photos_yes_no_choice',
        'photos_yes_no_popular',
        'photos_yes_no_random',
    ]
    rows = lines(out / 'photos_yes_no_random.jsonl')
    assert {r['question'] for r in rows if r['image_id'] == '285'} >= {
        'Is there a bear in the image?'
    }
    # the same questions, and the likelier answer is taken
    assert lines(out / 'photos_yes_no_choice.jsonl') == rows
    others = lines(out / 'photos_yes_no_adversarial.jsonl')
    assert len(others) == len(rows)
    text = (out / 'photos_yes_no_random.yaml').read_text()
    assert 'higher_is_better: true' in text and 'until: []' in text
    assert 'higher_is_better: false' not in text
    text = (out / 'photos_caption.yaml').read_text()
    # fewer invented objects are better; an empty line ends no answer
    assert text.count('higher_is_better: false') == 2
    assert 'higher_is_better: true' not in text and 'until: []' in text
    function = 'minigpt4.harness.task_functions.chair_i'
    assert f"!function '{function}'" in text


def test_questions_of_pope(main, photos, tmp_path):
    pope = tmp_path / 'coco_pope_random.json'
    rows = [
        dict(
            question_id=1,
            image='COCO_val2014_000000000139.jpg',
            text='Is there a tv in the image?',
            label='yes',
        ),
        dict(
            question_id=2,
            image='COCO_val2014_000000000140.jpg',
            text='Is there a tv in the image?',
            label='no',
        ),
    ]
    # names of other splits, and without leading zeros
    rows.append({**rows[0], 'question_id': 3, 'image': '285.jpg'})
    pope.write_text('\n'.join(map(json.dumps, rows)))
    out = tmp_path / 'tasks'
    main([str(photos), '--pope', str(pope), '--out', str(out)])
    row, other = lines(out / 'photos_coco_pope_random.jsonl')
    assert other['photo'].endswith('000000000285.jpg')
    assert row['question'] == 'Is there a tv in the image?'
    assert row['answer'] == 'yes'
    assert row['photo'].endswith('000000000139.jpg')


@pytest.mark.parametrize(
    'content, message',
    [
        ('{"image": "1.jpg", "text": "?"}', 'line 1 is not a question'),
        (
            '{"image": "139.jpg", "text": "?", "label": "maybe"}',
            'line 1 is not a question of POPE',
        ),
        ('[]', 'line 1 is not a question'),
        (
            '{"image": "1.jpg", "text": "?", "label": "yes"}',
            'none of the images',
        ),
    ],
)
def test_other_files_are_refused(
    main, photos, tmp_path, content, message, capsys
):
    pope = tmp_path / 'pope.json'
    pope.write_text(content)
    assert main(
        [str(photos), '--pope', str(pope), '--out', str(tmp_path / 'o')]
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'o').exists()


def test_documents_are_scored(photos):
    photo = str(photos / '000000000139.jpg')
    (image,) = task_functions.doc_to_visual(dict(photo=photo))
    assert image.size == (9, 6) and image.mode == 'RGB'
    docs = [
        dict(image_id='139', classes=['chair', 'tv']),
        dict(image_id='285', classes=['bear']),
    ]
    texts = ['A chair and a dog.', 'A bear.']
    rows = [
        task_functions.caption_results(doc, [text])['chair_i']
        for doc, text in zip(docs, texts, strict=True)
    ]
    assert task_functions.chair_i(rows) == pytest.approx(1 / 3, abs=1e-6)
    assert task_functions.chair_s(rows) == 0.5
    pairs = [
        task_functions.yes_no_results(dict(answer=answer), [text])['f1']
        for answer, text in (('yes', 'Yes.'), ('no', 'yes'), ('no', 'No.'))
    ]
    assert task_functions.accuracy(pairs) == pytest.approx(2 / 3)
    assert task_functions.precision(pairs) == 0.5
    assert task_functions.recall(pairs) == 1.0
    assert task_functions.yes_ratio(pairs) == pytest.approx(2 / 3)
