# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval`` with ``failures``, ``abilities`` and ``marks``."""

import json
import shutil

import pytest
from tests.browser import started_playwright
from tests.chat_endpoint import chat_endpoint

from minigpt4.evaluation.marks import score_marks
from minigpt4_cli import main as cli


def run(*options):
    return cli.main(['eval', *map(str, options)])


def rows(folder, name='answers.jsonl'):
    text = (folder / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def failures(nano_set, loads):
    """Options of a run about three images."""
    truth = nano_set / 'truth.json'
    truth.write_text(json.dumps({f'{i:03d}': ['dog'] for i in range(18)}))
    return (
        *('failures', '--images', nano_set / 'images', '--count', 3, '-q'),
        *('--truth', truth, '--max-new-tokens', 40, '--slots', 2),
        *('-o', nano_set / 'out'),
    )


def test_a_stopped_run_of_failures_continues(
    failures, nano_set, loads, capsys
):
    assert run(*failures) == 0
    out = nano_set / 'out'
    complete = sorted(rows(out), key=lambda row: row['number'])
    assert [row['group'] for row in complete] == ['caption'] * 3 + ['poem'] * 3
    assert complete[3]['prompt'] == (
        'Can you write a beautiful poem about this image?'
    )
    printed = capsys.readouterr().out
    # the nano model describes shapes and never names a dog
    assert 'irrelevance 100.00 %' in printed
    assert 'published   35 % before stage 2, 2 % after it' in printed
    summary = read(out / 'summary.json')
    assert summary['scores']['caption']['irrelevance']['total'] == 3
    # as after a kill
    lines = (out / 'answers.jsonl').read_bytes().splitlines(True)
    (out / 'answers.jsonl').write_bytes(b''.join(lines[:2]) + lines[2][:9])
    assert run(*failures) == 0 and len(loads) == 2
    again = sorted(rows(out), key=lambda row: row['number'])
    assert again == complete
    # complete: no model
    assert run(*failures) == 0 and len(loads) == 2
    (out / 'summary.json').unlink()
    assert run('--score', out) == 0 and len(loads) == 2
    assert read(out / 'summary.json') == summary


def test_abilities_are_counted_and_judged(
    nano_set, loads, capsys, monkeypatch
):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-secret-of-the-test')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    pytest.importorskip('openai')
    files = sorted((nano_set / 'images').iterdir())
    folder, out = nano_set / 'tasks', nano_set / 'out'
    for task, file in zip(('meme', 'meme', 'recipe'), files, strict=False):
        (folder / task).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / task)
    options = (
        *('abilities', '--images', folder, '-q', '-o', out),
        *('--max-new-tokens', 20),
    )
    assert run(*options) == 0
    printed = capsys.readouterr().out
    assert (
        'meme          2 answers; published: BLIP-2 0/25, MiniGPT-4 8/25'
        in printed
    )
    prompts = [row['prompt'] for row in rows(out)]
    assert sorted(prompts) == [
        'Explain why this meme is funny.',
        'Explain why this meme is funny.',
        'How should I make something like this?',
    ]
    # the answers are judged later, without the model
    with chat_endpoint(lambda m: 'yes' if 'meme' in m else 'no') as endpoint:
        judge = ('--judge-url', endpoint.url, '--judge-model', 'j')
        assert run(*options, *judge) == 0
        assert len(endpoint.messages) == 3
        assert run(*options, *judge) == 0
        assert len(endpoint.messages) == 3
        other = ('--judge-url', endpoint.url, '--judge-model', 'k')
        assert run(*options, *other) == 1
        assert 'has judgements of j' in capsys.readouterr().err
    assert len(loads) == 1
    tasks = read(out / 'summary.json')['tasks']
    assert tasks['meme']['judged']['value'] == 1
    assert tasks['recipe']['judged']['value'] == 0
    assert tasks['poem']['answers'] == 0
    assert run('--score', out) == 0
    assert read(out / 'summary.json')['tasks'] == tasks
    # the same images as a list are the same requests
    records = [
        dict(image=f'tasks/{task}/{file.name}', task=task)
        for task, file in zip(('meme', 'meme', 'recipe'), files, strict=False)
    ]
    listed = nano_set / 'list.json'
    listed.write_text(json.dumps(records))
    again = ('abilities', '--images', listed, '-q', '-o', out)
    assert run(*again, '--max-new-tokens', 20) == 0


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        ('{', 'is not JSON (line 1, column 2'),
        ('[]', 'is no list of images'),
        ('[{"task": "meme"}]', 'record 0 has no image'),
        ('[{"image": "a.png", "task": "x"}]', "has the task 'x'; expected"),
        ('[{"image": "a.png", "task": "meme"}]', 'a.png does not exist'),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, capsys, content, sentence):
    path = tmp_path / 'list.json'
    path.write_text(content)
    assert run('abilities', '--images', path, '-o', tmp_path / 'out') == 1
    assert sentence in capsys.readouterr().err


def test_scores_of_marks():
    answers = [dict(number=n, group='caption') for n in range(4)]
    answers += [dict(number=n, group='poem') for n in range(4, 6)]
    marks = {0: 1, 1: 2, 2: 1, 3: 1, 4: 2}
    found = score_marks('failures', answers, marks, {0: 1, 1: 2, 2: 2, 3: 1})
    assert (found['marked'], found['unmarked']) == (5, 1)
    assert found['scores']['caption']['value'] == 0.25
    assert found['scores']['poem']['value'] == 1
    # observed 3/4, by chance 3/4 * 2/4 + 1/4 * 2/4 = 1/2
    assert found['agreement'] == dict(both=4, equal=3, kappa=0.5)


@pytest.mark.parametrize('suffix', ['json', 'csv'])
def test_exported_marks_are_imported(failures, nano_set, capsys, suffix):
    out = nano_set / 'out'
    assert run(*failures) == 0 and run('marks', out) == 0
    page = (out / 'marks.html').read_text()
    assert '6 answers to mark' in capsys.readouterr().out
    assert page.count('data:image/jpeg;base64,') == 3  # not six
    assert 'http://' not in page and 'https://' not in page
    digest = page.split('"run": "')[1][:16]
    marks = {'0': 1, '1': 2, '3': 2}
    if suffix == 'json':
        text = json.dumps(dict(run=digest, rater='ann', marks=marks))
    else:
        lines = [f'{digest},ann,{n},{mark}' for n, mark in marks.items()]
        text = '\n'.join(['run,rater,number,mark', *lines]) + '\n'
    file = nano_set / f'exported.{suffix}'
    file.write_text(text)
    assert run('marks', out, '--import', file) == 0
    printed = capsys.readouterr().out
    assert '3 answers marked by ann, 3 not' in printed
    assert 'caption       failures 1 of 2: 50.00 %' in printed
    # the detectors find all irrelevant: equal for the two failures
    assert 'agreement with the detectors: 2 of 3' in printed
    assert read(out / 'marks-ann.json')['marks'] == marks
    assert read(out / 'marks_summary.json')['scores']['poem']['value'] == 1
    for wrong, sentence in (
        (text.replace(digest, '0' * 16), 'has marks of other answers'),
        (text.replace('ann', '../x'), 'expected a name of letters'),
        ('a,b\n', "has no marks (its first line is 'a,b'); expected the"),
    ):
        file.write_text(wrong)
        assert run('marks', out, '--import', file) == 1
        assert sentence in capsys.readouterr().err


def test_marks_are_replaced_with_an_option(failures, nano_set, capsys):
    out, file = nano_set / 'out', nano_set / 'marks.csv'
    assert run(*failures) == 0 and run('marks', out) == 0
    digest = (out / 'marks.html').read_text().split('"run": "')[1][:16]

    def write(*marks):
        lines = [f'{digest};{name};{n};{mark}' for name, n, mark in marks]
        file.write_text('\n'.join(['run;rater;number;mark', *lines]))

    write(('ann', 0, 1), ('ann', 1, 2), ('ben', 0, 1), ('ben', 1, 1))
    assert run('marks', out, '--import', file) == 0
    printed = capsys.readouterr().out
    assert '2 answers marked by ben, 4 not' in printed
    # by chance 1/2, observed 1/2
    assert "of ann and ben: 1 of 2, Cohen's kappa 0.000" in printed
    write(('ann', 0, 2))
    assert run('marks', out, '--import', file) == 1
    assert 'changes or lacks 2; give --replace' in capsys.readouterr().err
    assert run('marks', out, '--import', file, '--replace') == 0
    assert (
        '1 answers marked by ann (replaces 2 stored marks, of which 2 differ '
        'or are removed), 5 not'
    ) in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run('marks', out, '--replace')
    assert '--replace goes with --import FILE' in capsys.readouterr().err


def test_an_image_that_is_missing_is_named_once(failures, nano_set, capsys):
    out, none = nano_set / 'out', nano_set / 'none'
    assert run(*failures) == 0 and run('marks', out, '--images', none) == 0
    lines = capsys.readouterr().err.splitlines()
    found = [line for line in lines if line.startswith('without image: ')]
    assert found and all(line.count(f'{none}/') == 1 for line in found)


def test_results_of_other_protocols_have_no_marks(tmp_path, capsys):
    (tmp_path / 'settings.json').write_text('{"protocol": "match"}')
    assert run('marks', tmp_path) == 1
    assert 'has results of match; answers of' in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_in_a_browser(failures, nano_set, capsys):
    out = nano_set / 'out'
    assert run(*failures) == 0
    # a text that would end a script that is not escaped
    text = (out / 'answers.jsonl').read_text().splitlines()
    first = json.loads(text[0])
    first['answer'] = evil = '</script><img src=x onerror="document.title=1">'
    text[0] = json.dumps(first)
    (out / 'answers.jsonl').write_text('\n'.join(text) + '\n')
    assert run('marks', out) == 0
    with started_playwright() as (playwright, chromium):
        browser = playwright.chromium.launch(
            executable_path=chromium, args=['--no-sandbox']
        )
        page = browser.new_context(accept_downloads=True).new_page()
        errors = []
        page.on('pageerror', lambda error: errors.append(str(error)))
        page.goto((out / 'marks.html').as_uri())
        number = first['number']
        for _ in range(number):
            page.keyboard.press('ArrowRight')
        assert page.text_content('#answer') == evil
        assert page.title() == 'Marks'
        assert page.evaluate("document.getElementById('image').naturalWidth")
        for _ in range(number):
            page.keyboard.press('ArrowLeft')
        page.keyboard.press('1')
        page.keyboard.press('2')
        assert page.text_content('#place') == 'Answer 3 of 6, 2 marked'
        page.reload()  # the marks are stored
        assert page.text_content('#place') == 'Answer 3 of 6, 2 marked'
        page.fill('#rater', 'ben')
        page.click('#one')
        files = {}
        for suffix in ('json', 'csv'):
            with page.expect_download() as download:
                page.click(f'#{suffix}')
            files[suffix] = nano_set / download.value.suggested_filename
            download.value.save_as(files[suffix])
        browser.close()
    assert not errors
    assert files['csv'].name == 'marks-ben.csv'
    for file in files.values():
        assert run('marks', out, '--import', file) == 0
        stored = read(out / 'marks-ben.json')
        assert stored['marks'] == {'0': 1, '1': 2, '2': 1}
