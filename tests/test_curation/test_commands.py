# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions add, run and status of minigpt4 curate."""

import json
import os
import signal
import sys

import pytest
from tests.chat_endpoint import chat_endpoint

from minigpt4.curation import describe, pipeline
from minigpt4.curation.ledger import Ledger
from minigpt4_cli.main import main

FAST = (
    'describe.generation={max_new_tokens: 12}',
    'rules.skip=[language, fragment, unfinished, near_duplicate_image]',
    'rules.min_words=5',
)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the verb in the current folder: status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        status = main(['curate', *map(str, words)])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def sets(*overrides):
    return [word for o in (*FAST, *overrides) for word in ('--set', o)]


def test_add_run_and_status(command, images, tmp_path):
    status, _, err = command('add', images, '--licence', 'CC0')
    assert status == 0 and err.endswith(
        '12 images added; 12 in curation.sqlite\n'
    )
    status, out, _ = command('status')
    assert out.startswith('12 images: curation.sqlite\n')
    assert out.split()[-5:] == ['rules', '0', '0', '0', '0']
    status, _, err = command('run', *sets('describe.device=cpu'))
    assert status == 0
    # the settings of the run are those of status
    status, out, _ = command('status')
    rows = dict(
        (row.split()[0], row.split()[1:]) for row in out.splitlines()[2:6]
    )
    assert rows['describe'] == rows['continue'] == ['12', '0', '0', '0']
    ok, dropped, failed, missing = map(int, rows['rules'])
    assert ok + dropped == 12 and failed == missing == 0
    # nothing is left
    with Ledger(tmp_path / 'curation.sqlite') as ledger:
        steps = [step[0] for step in ledger.steps()][-4:]
        before = [list(ledger.results(step)) for step in steps]
    assert command('run')[0] == 0
    with Ledger(tmp_path / 'curation.sqlite') as ledger:
        assert before == [list(ledger.results(step)) for step in steps]


def test_some_steps(command, images):
    command('add', images, '--limit', '2')
    status, _, err = command('run', '--steps', 'rules')
    assert status == 1
    assert 'but 2 have no result of describe; run describe too' in err
    status, _, err = command(
        'run', '--steps', 'describe', *sets('describe.device=cpu')
    )
    assert status == 0
    _, out, _ = command('status')
    assert out.splitlines()[2].split() == ['describe', '2', '0', '0', '0']
    assert out.splitlines()[3].split()[-1] == '2'
    status, _, err = command('run', '--steps', 'repiar')
    assert status == 1 and "there is no step 'repiar'" in err


def test_failures_are_named_and_tried_again(command, images, tmp_path):
    file = tmp_path / 'lost.png'
    file.write_bytes((images / '00.png').read_bytes())
    command('add', file)
    file.rename(tmp_path / 'away.png')
    options = sets('describe.device=cpu')
    status, _, err = command('run', *options)
    assert status == 1
    assert 'describe: 1 failed: ' in err and 'lost.png' in err
    (tmp_path / 'away.png').rename(file)
    assert command('run')[0] == 0


def test_unreadable_images_are_named(command, images, tmp_path):
    (tmp_path / 'x.png').write_bytes(b'no image')
    status, _, err = command('add', images, 'x.png')
    assert status == 1
    assert 'unreadable: x.png cannot be read as an image' in err
    assert '12 images added, 1 unreadable; 12 in curation.sqlite' in err


def test_captions_and_objects(command, images, tmp_path):
    objects = tmp_path / 'objects.json'
    objects.write_text(json.dumps({'3': ['cat']}))
    assert command('add', images, '--objects', objects)[0] == 0
    with Ledger(tmp_path / 'curation.sqlite') as ledger:
        assert ledger.images([4])[0].details['objects'] == ['cat']
    objects.write_text(json.dumps({'99': ['cat']}))
    status, _, err = command('add', images, '--objects', objects)
    assert status == 1 and 'has objects of none of the 12 images' in err


@pytest.mark.parametrize('option', ['captions', 'objects'])
def test_a_missing_file_is_named_with_its_option(command, images, option):
    status, _, err = command('add', images, f'--{option}', 'none.json')
    assert status == 1
    assert f'--{option} none.json does not exist; give a file of' in err


def test_half_a_character_in_notes_is_refused(command, images, tmp_path):
    file = tmp_path / 'captions.json'
    record = dict(image='03.png', caption='a dog \ud83d')
    file.write_text(json.dumps([record]))
    status, _, err = command('add', images, '--captions', file)
    assert status == 1
    status, _, err = command('add', images, '--source', 'a \udcff')
    assert status == 1
    assert '--source a \\udcff contains half a character or bytes' in err


def test_the_reasons_that_are_not_named_are_counted(command, images, tmp_path):
    for i in range(5):
        (tmp_path / f'{i}.png').write_bytes(
            (images / f'{i:02}.png').read_bytes()
        )
    command('add', *(f'{i}.png' for i in range(5)))
    for i in range(5):
        (tmp_path / f'{i}.png').unlink()
    _, _, err = command('run', *sets('describe.device=cpu'))
    assert err.count('describe: 1 failed: ') == 3
    assert 'describe: 2 more failed for other reasons' in err


@pytest.mark.parametrize('action', ['run', 'status'])
def test_without_images(command, tmp_path, action):
    status, _, err = command(action)
    assert status == 1 and 'curation.sqlite does not exist; add images' in err
    assert not (tmp_path / 'curation.sqlite').exists()
    Ledger(tmp_path / 'curation.sqlite').close()
    status, _, err = command(action)
    assert status == 1 and 'curation.sqlite has no images; add some' in err


def test_a_signal_keeps_the_results(command, images, tmp_path, monkeypatch):
    command('add', images)
    monkeypatch.setattr(pipeline, '_FLUSH_SECONDS', 0.0)
    monkeypatch.setattr(pipeline, '_CLAIMED', 2)
    answers = describe.answers

    def stopped(*args, **kwargs):
        for i, answer in enumerate(answers(*args, **kwargs)):
            if i == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield answer

    monkeypatch.setattr(describe, 'answers', stopped)
    options = sets('describe.device=cpu', 'describe.slots=1')
    status, _, err = command('run', *options)
    assert status == 128 + signal.SIGTERM
    stored = int(err.split('stopped; ')[1].split()[0])
    assert err.strip().endswith(
        f'stopped; {stored} results kept; the same command continues'
    )
    _, out, _ = command('status')
    _, ok, _, _, missing = out.splitlines()[2].split()
    assert int(ok) == stored and 3 <= stored < 12
    assert int(missing) == 12 - stored
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert command('run')[0] == 0


def test_missing_packages_are_named(command, images, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lingua', None)
    status, _, err = command('add', images)
    assert status == 1
    assert "lingua; install them with: pip install 'minigpt4[curate]'" in err


def test_repairs_are_estimated_counted_and_limited(
    command, images, monkeypatch
):
    pytest.importorskip('openai')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    command('add', images)
    with chat_endpoint(lambda message: 'A red circle is here.') as endpoint:
        repair = sets(
            'repair.backend=openai',
            'repair.model=fixer',
            f'repair.base_url={endpoint.url}',
            'repair.api_key_env=null',
            'repair.guard.language=ignore',
            'repair.price_prompt=0',
            'repair.price_completion=1000',
            'repair.max_tokens=50',
            'repair.concurrency=1',
        )
        status, out, _ = command('run', '--estimate', *repair)
        assert status == 0 and endpoint.messages == []
        assert out.startswith('repair: ') and 'do not exist yet' in out
        status, _, err = command('run', '--max-cost', 0.11, *repair)
        assert status == 1 and len(endpoint.messages) == 2
        assert 'repair: 2 answers, 200 prompt tokens, 100 tokens' in err
        assert err.endswith(
            'error: repairs have cost $0.100000, and the next request might '
            'exceed max_cost = $0.110000; what was repaired is kept, raise '
            'max_cost to continue.\n'
        )
        # the settings of the last run count, with a higher limit
        status, _, err = command('run', '--max-cost', 10)
        assert len(endpoint.messages) == 12  # one for each image
    _, out, _ = command('status')
    assert 'repair 12 0 0 0' in ' '.join(out.split())
