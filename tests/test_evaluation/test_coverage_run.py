# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval coverage``: judges, interrupted runs, costs, errors."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest
from tests.chat_endpoint import chat_endpoint, completion

from minigpt4.evaluation.coverage import judge_message
from minigpt4_cli import main as cli

pytest.importorskip('openai')
PRICES = (
    *('--judge-option', 'price_prompt=1'),
    *('--judge-option', 'price_completion=2'),
)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-secret-of-the-test')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')


@pytest.fixture
def files(tmp_path):
    """Options of four images with one reference each, and captions."""
    (tmp_path / 'refs.json').write_text(
        json.dumps(
            dict(
                images=[
                    dict(id=i, file_name=f'{i:012d}.jpg') for i in range(1, 5)
                ],
                annotations=[
                    dict(id=i, image_id=i, caption=f'Reference {i}.')
                    for i in range(1, 5)
                ],
            )
        )
    )
    (tmp_path / 'captions.jsonl').write_text(
        ''.join(
            json.dumps(dict(image_id=i, caption=f'Caption {i}.')) + '\n'
            for i in (1, 2, 3, 4, 99)
        )
    )
    return (
        *('--annotations', tmp_path / 'refs.json'),
        *('--captions', tmp_path / 'captions.jsonl', '-q'),
    )


def run(*options):
    return cli.main(['eval', *map(str, options)])


def endpoint_options(endpoint, *options):
    return (
        *('--judge-url', endpoint.url, '--judge-model', 'judge-1'),
        *('--judge-option', 'retries=0', '--judge-option', 'concurrency=1'),
        *options,
    )


def rows(folder):
    text = (folder / 'judgements.jsonl').read_text()
    return [json.loads(line) for line in text.splitlines()]


def stored_rows(folder):
    file = folder / 'judgements.jsonl'
    return file.read_bytes().count(b'\n') if file.exists() else 0


def summary(folder):
    return json.loads((folder / 'summary.json').read_text())


def of_number(answers):
    """Answers by the number in the caption of a message."""
    return lambda message: next(
        a for n, a in answers.items() if f'Caption {n}.' in message
    )


def test_captions_are_corrected_after_an_error(tmp_path, files, capsys):
    captions = tmp_path / 'captions.jsonl'
    right, out = captions.read_text(), tmp_path / 'out'
    captions.write_text('')
    with chat_endpoint(lambda _: 'yes') as endpoint:
        words = ('coverage', *files, *endpoint_options(endpoint), '-o', out)
        assert run(*words) != 0
        captions.write_text(right)
        assert run(*words) == 0
    assert summary(out)['judged'] == 4


def test_the_judge_gets_the_prompt_of_the_paper(tmp_path, files, capsys):
    answers = {1: 'Yes.', 2: 'no', 3: 'Perhaps', 4: 'YES, it does'}
    out = tmp_path / 'out'
    with chat_endpoint(of_number(answers)) as endpoint:
        options = ('coverage', *files, *endpoint_options(endpoint, *PRICES))
        assert run(*options, '-o', out) == 0
        assert sorted(endpoint.messages)[0] == (
            'There is one image caption1 ‘Reference 1.’, and there is another '
            'image caption2 ‘Caption 1.’. Does image caption2 cover all the '
            'objects and visual relations shown in image caption1? Only '
            'answer yes or no without any explanation.'
        )
        # a second run asks nothing
        assert run(*options, '-o', out) == 0
        assert len(endpoint.messages) == 4
    found = summary(out)
    assert (found['judged'], found['yes'], found['no']) == (4, 2, 1)
    assert found['unparsed'] == 1 and found['without_reference'] == 1
    assert found['scores']['coverage']['value'] == 0.5
    # Wilson, computed by hand for 2 of 4
    interval = found['scores']['coverage']['interval']
    assert interval == pytest.approx([0.15004, 0.84996], abs=1e-5)
    # 100 prompt tokens and 50 of the answer each
    assert found['judge']['cost_usd'] == pytest.approx(4 * 200e-6)
    assert found['judge']['model'] == 'judge-1'
    assert found['judge']['last_date'] == rows(out)[0]['date']
    assert found['published']['MiniGPT-4'] == dict(yes=3310, judged=5000)
    printed = capsys.readouterr()
    assert 'covered     50.00 % (15.00 to 85.00)' in printed.out
    assert 'answers     2 yes, 1 no, 1 unparsed' in printed.out
    assert 'skipped: 1 caption of' in printed.err
    assert '--annotations has ids such as' in printed.err
    assert 'sk-secret' not in json.dumps(rows(out))
    # the other parser counts "YES, it does" as unparsed
    assert run('--score', out, '--option', 'parser=exact') == 0
    assert summary(out)['unparsed'] == 2
    assert summary(out)['without_reference'] == 1
    with pytest.raises(SystemExit):
        run('--score', out, '--option', 'parser=none')


def test_a_run_that_was_stopped_asks_only_what_is_missing(tmp_path, files):
    out = tmp_path / 'out'
    with chat_endpoint(lambda m: 'yes') as endpoint:
        options = ('coverage', *files, *endpoint_options(endpoint), '-o', out)
        assert run(*options) == 0
        complete = rows(out)
        # as after a kill: two rows, and one that was not written to its end
        lines = (out / 'judgements.jsonl').read_bytes().splitlines(True)
        (out / 'judgements.jsonl').write_bytes(
            lines[0] + lines[1] + lines[2][:30]
        )
        endpoint.messages.clear()
        assert run(*options) == 0
        assert len(endpoint.messages) == 2
    assert rows(out) == complete


def test_judgements_of_other_settings_are_not_mixed(tmp_path, files, capsys):
    out = tmp_path / 'out'
    with chat_endpoint(lambda m: 'yes') as endpoint:
        options = ('coverage', *files, *endpoint_options(endpoint), '-o', out)
        assert run(*options) == 0
        capsys.readouterr()
        for other in (
            ('--judge-model', 'judge-2'),
            ('--judge-option', 'temperature=1'),
            ('--reference', 'first'),
            ('--reference-seed', 1),
        ):
            assert run(*options, *other) == 1
            assert 'has results of other settings' in capsys.readouterr().err
        # how the endpoint is asked changes no answer
        assert run(*options, '--judge-option', 'concurrency=2') == 0
    assert len(rows(out)) == 4


def test_a_caption_that_failed_is_not_judged(tmp_path, files, capsys):
    path = tmp_path / 'captions.jsonl'
    text = path.read_text()
    path.write_text(text + '{"image_id": 5, "error": "no image"}\n')
    out = tmp_path / 'out'
    with chat_endpoint(lambda m: 'yes') as endpoint:
        options = ('coverage', *files, *endpoint_options(endpoint))
        assert run(*options, '-o', out) == 1
        assert len(endpoint.messages) == 4
    assert summary(out)['failed_captions'] == 1
    assert 'failed: 5: no image' in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_asks_only_what_was_in_work(tmp_path, files):
    out = tmp_path / 'out'
    blocked, killed = [], threading.Event()

    def answer(message):
        if len(endpoint.messages) == 3 and not blocked:
            blocked.append(message)
            killed.wait(600)
        return 'yes'

    with chat_endpoint(answer) as endpoint:
        options = ('coverage', *files, *endpoint_options(endpoint), '-o', out)
        command = [sys.executable, '-m', 'minigpt4_cli.main', 'eval', *options]
        process = subprocess.Popen([*map(str, command)])
        try:
            deadline = time.monotonic() + 500
            # the third question may be sent before the second row is stored
            while not (blocked and stored_rows(out) == 2):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
            killed.set()
        stored = rows(out)
        assert len(stored) == 2
        before = len(endpoint.messages)
        assert run(*options) == 0
        again = endpoint.messages[before:]
        assert len(again) == 2 and again[0] == blocked[0]
    assert rows(out)[:2] == stored and summary(out)['yes'] == 4


def test_an_endpoint_that_dies_loses_nothing(tmp_path, files, capsys):
    out = tmp_path / 'out'
    answered = []

    def answer(message):
        if len(answered) == 2:
            return 401, {}, {'error': {'message': 'expired'}}
        answered.append(message)
        return 'no'

    with chat_endpoint(answer) as endpoint:
        options = ('coverage', *files, *endpoint_options(endpoint), '-o', out)
        assert run(*options) == 1
        assert 'refuses the key of OPENAI_API_KEY' in capsys.readouterr().err
        assert len(rows(out)) == 2
        answered.clear()
        assert run(*options) == 0
    assert len(rows(out)) == 4 and summary(out)['no'] == 4


def test_an_answer_that_cannot_be_used_is_asked_again(tmp_path, files, capsys):
    out = tmp_path / 'out'
    answers = {1: 'yes', 2: (200, {}, completion('ye', 'length')), 3: 'no'}
    answers[4] = 'no'
    with chat_endpoint(of_number(answers)) as endpoint:
        options = ('coverage', *files, *endpoint_options(endpoint), '-o', out)
        assert run(*options) == 1
        error = capsys.readouterr().err
        assert 'failed: 2: the answer reached 64 tokens' in error
        assert 'raise --judge-option max_tokens.' in error
        assert summary(out)['judged'] == 3
        answers[2] = 'yes'
        assert run(*options) == 0
    assert summary(out)['judged'] == 4 and summary(out)['yes'] == 2


def test_the_cost_has_a_limit_and_an_estimate(tmp_path, files, capsys):
    out = tmp_path / 'out'
    with chat_endpoint(lambda m: 'yes') as endpoint:
        options = (
            *('coverage', *files, '-o', out),
            *endpoint_options(endpoint, *PRICES),
        )
        assert run(*options, '--estimate') == 0
        assert 'judge: 4 requests, about ' in capsys.readouterr().out
        assert not endpoint.messages
        # two answers cost 0.0004, and a request may cost about 0.0005
        assert run(*options, '--max-cost', 0.0009) == 1
        error = capsys.readouterr().err
        assert 'what was judged is kept, raise max_cost' in error
        assert 1 <= len(endpoint.messages) < 4
        assert run(*options, '--max-cost', 1) == 0
        assert len(endpoint.messages) == 4
    with pytest.raises(SystemExit):
        run(
            *('coverage', *files, '-o', out, '--max-cost', 1),
            *('--judge-model', 'x'),
        )
    assert 'price_prompt' in capsys.readouterr().err


def test_two_judges_are_compared(tmp_path, files, capsys):
    first, second = tmp_path / 'first', tmp_path / 'second'
    for out, words in ((first, 'yynn'), (second, 'ynnn')):
        full = {'y': 'yes', 'n': 'no'}
        answers = {n: full[word] for n, word in enumerate(words, 1)}
        with chat_endpoint(of_number(answers)) as endpoint:
            options = endpoint_options(endpoint)
            assert run('coverage', *files, *options, '-o', out) == 0
    capsys.readouterr()
    assert run('agreement', first, second) == 0
    printed = capsys.readouterr().out
    # by hand: observed 3/4, by chance 2/4 * 1/4 + 2/4 * 3/4 = 1/2
    assert 'equal        3 (75.00%)' in printed
    assert "Cohen's kappa  0.500" in printed
    assert re.search('yes, no +1\\n', printed)
    assert run('agreement', first, tmp_path) == 1
    assert 'has no judgements.jsonl' in capsys.readouterr().err


def test_judgements_are_recorded_answers(tmp_path, files, capsys):
    out, again = tmp_path / 'out', tmp_path / 'again'
    with chat_endpoint(lambda m: 'yes') as endpoint:
        options = endpoint_options(endpoint)
        assert run('coverage', *files, *options, '-o', out) == 0
    recorded = tmp_path / 'recorded.jsonl'
    shutil.copy(out / 'judgements.jsonl', recorded)
    options = ('--judge-answers', recorded, '--judge-model', 'judge-1')
    assert run('coverage', *files, *options, '-o', again) == 0
    assert summary(again)['yes'] == 4


def test_captions_are_generated_and_judged_by_a_local_model(
    nano_set, loads, capsys
):
    out = nano_set / 'out'
    options = (
        *('coverage', '--annotations', nano_set / 'captions.json', '-q'),
        *('--images', nano_set / 'images', '--limit', 3, '-o', out),
        *('--max-new-tokens', 40, '--device', 'cpu'),
        *('--judge', 'local:minigpt-4_nano_caption'),
        *('--judge-option', 'max_tokens=200'),
    )
    status = run(*options)
    captions = [
        json.loads(line)
        for line in (out / 'captions.jsonl').read_text().splitlines()
    ]
    assert [row['image_id'] for row in captions] == ['0', '1', '2']
    assert captions[0]['prompt'] == 'Describe this image in detail.'
    assert len(rows(out)) == 3
    assert status == (1 if summary(out)['errors'] else 0)
    assert rows(out)[0]['model'] == 'minigpt-4_nano_caption'
    # the local judge of two numbers has no yes or no
    assert summary(out)['judged'] == summary(out)['unparsed']


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ((), 'give a judge: --judge-url URL'),
        (('--judge', 'gpt'), '--judge gpt: expected local:NAME'),
        (('--judge', 'local:none'), '--judge: '),
        (
            ('--judge-model', 'm', '--judge-answers', '/none'),
            '--judge-answers /none is no file',
        ),
        (
            ('--judge-model', 'm', '--judge-option', 'retry=1'),
            'expected NAME=VALUE with one of api_key_env',
        ),
        (
            ('--judge-model', 'm', '--judge-option', 'retries=x'),
            '--judge-option retries: ',
        ),
    ],
)
def test_a_wrong_judge_is_refused(tmp_path, files, capsys, options, sentence):
    with pytest.raises(SystemExit):
        run('coverage', *files, '-o', tmp_path / 'out', *options)
    assert sentence in capsys.readouterr().err


def test_wrong_captions_are_refused(tmp_path, files, capsys):
    path = tmp_path / 'captions.jsonl'
    judge = ('--judge-model', 'm')
    options = ('coverage', *files, *judge, '-o', tmp_path / 'out')
    path.write_text('{"image_id": 1, "caption": "a"}\n' * 2)
    assert run(*options) == 1
    assert 'two captions of the image 1' in capsys.readouterr().err
    path.write_text('{"image_id": 7, "caption": "a"}\n')
    assert run(*options, '--overwrite') == 1
    assert 'none of the 1 captions of' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run('coverage', *files, *judge)
    assert 'coverage needs -o DIR' in capsys.readouterr().err


def test_braces_stay_in_the_message():
    assert '‘{caption}’, and' in judge_message('{caption}', 'x')
