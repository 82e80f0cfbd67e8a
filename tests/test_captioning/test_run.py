# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The command ``minigpt4 caption``, from images to exports."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minigpt4
from minigpt4.captioning.image_sources import find_images
from minigpt4.captioning.results import ResultsDatabase
from minigpt4.generation.engine import Engine
from minigpt4.nano import grammar
from minigpt4_cli import main as cli

HOW_MANY = 'How many shapes are there?'
SHORT = ['--max-new-tokens', '3', '-q']

pytestmark = pytest.mark.usefixtures('loads')


def main(arguments):
    return cli.main(['caption', *arguments])


def rows(path='out.jsonl'):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def names(path='out.jsonl'):
    return [row['image'] for row in rows(path)]


def test_a_folder_gives_the_answers_of_single_images(
    model, folder, scenes, capsys
):
    for i, image in enumerate(scenes[1]):
        image.save(f'images/{i}.png')
    assert main(['images', '-o', 'out.jsonl']) == 0
    files = [f'images/{i}.png' for i in range(6)]
    assert names() == files
    single = [
        minigpt4.inference_model(model, file)['pred_caption'] for file in files
    ]
    assert [row['caption'] for row in rows()] == single
    assert len(set(single)) == 6
    assert single[1] == grammar.description(scenes[0][1])
    assert {row['prompt'] for row in rows()} == {
        'Describe this image in detail.'
    }
    assert all(row['finished'] and row['tokens'] > 5 for row in rows())
    out, err = capsys.readouterr()
    assert not out
    assert '6 answered' in err and '6 rows: out.jsonl' in err


def test_several_prompts_and_settings(folder, requests):
    arguments = ['images/0.png', 'images/1.png', '-o', 'out.jsonl']
    prompts = ['--prompt', HOW_MANY, '--prompt', 'Write a poem.']
    assert main([*arguments, *prompts, '--max-new-tokens', '4']) == 0
    assert [(row['image'], row['prompt']) for row in rows()] == [
        (f'images/{i}.png', prompt)
        for i in range(2)
        for prompt in (HOW_MANY, 'Write a poem.')
    ]
    assert [row['tokens'] for row in rows()] == [4] * 4
    assert not any(row['finished'] for row in rows())
    assert requests == [{'max_new_tokens': 4}] * 4
    assert rows()[0]['settings'] == {'max_new_tokens': 4}


def test_a_second_run_answers_only_new_and_changed_images(
    folder, scenes, loads, requests
):
    assert main(['images', '-o', 'out.jsonl', '-q']) == 0
    first = Path('out.jsonl').read_bytes()
    assert main(['images', '-o', 'out.jsonl', '-q']) == 0
    assert Path('out.jsonl').read_bytes() == first
    assert len(loads) == 1, 'the model was loaded without need'
    scenes[1][5].save('images/2.png')  # changed
    scenes[1][1].save('images/10.png')  # new
    del requests[:]
    assert main(['./images/', '-o', 'out.jsonl', '-q']) == 0
    assert len(requests) == 2
    found = {row['image']: row['caption'] for row in rows()}
    assert len(rows()) == 4 and names() == sorted(found)
    assert found['images/2.png'] == grammar.description(scenes[0][5])
    assert found['images/10.png'] == grammar.description(scenes[0][1])


def test_one_database_has_all_exports(folder, requests):
    for out in ('out.csv', 'out.jsonl', 'out.csv'):
        assert main(['images', '-o', out, *SHORT]) == 0
    assert len(requests) == 3
    with open('out.csv', newline='') as file:
        assert [row['image'] for row in csv.DictReader(file)] == names()
    assert set(os.listdir()) == {
        'images',
        'out.csv',
        'out.jsonl',
        'out.sqlite',
    }


def test_a_lost_database_is_restored_from_a_jsonl_export(
    folder, requests, capsys
):
    assert main(['images', '-o', 'out.jsonl', *SHORT]) == 0
    Path('out.sqlite').unlink()
    del requests[:]
    assert main(['images', '-o', 'out.jsonl', *SHORT]) == 0
    assert 'out.jsonl: 3 results were imported' in capsys.readouterr().err
    assert not requests and len(rows()) == 3


@pytest.mark.parametrize(
    'signum', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_a_stopped_run_keeps_its_answers(
    folder, monkeypatch, requests, capsys, signum
):
    step = Engine.step
    steps = []

    def stopped(self):
        steps.append(self)
        if len(steps) == 6:
            os.kill(os.getpid(), signum)
        return step(self)

    before = signal.getsignal(signum)
    command = ['images', '-o', 'out.csv', '--slots', '1']
    command += ['--max-new-tokens', '3']
    with monkeypatch.context() as patched:
        patched.setattr(Engine, 'step', stopped)
        assert main(command) == 128 + signum
    assert signal.getsignal(signum) == before
    assert capsys.readouterr().err == (
        f'\nstopped by {signal.Signals(signum).name}; what was answered is '
        'kept, and the same command continues from there.\n'
    )
    assert not Path('out.csv').exists()
    del requests[:]
    assert main(command) == 0
    err = capsys.readouterr().err
    n_kept = 3 - len(requests)
    assert 0 < n_kept < 3 and f'{n_kept} already done' in err
    with open('out.csv', newline='') as file:
        assert len(list(csv.DictReader(file))) == 3


@pytest.mark.slow
def test_a_killed_run_continues(folder, scenes):
    for i in range(300):
        scenes[1][i % 6].save(f'images/{i:03}.png')
    command = [sys.executable, '-m', 'minigpt4_cli.main']
    command += ['caption', 'images', '-o', 'out.csv', '--quiet']
    run = subprocess.Popen(command)
    log = Path('out.sqlite-wal')
    while not (log.exists() and log.stat().st_size > 200_000):
        assert run.poll() is None, 'it ended before it could be killed'
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert not Path('out.csv').exists()
    provenance = dict(model='minigpt-4_nano_caption', weights=None)
    with ResultsDatabase(
        Path('out.sqlite'), provenance | {'settings': {}}
    ) as database:
        kept = list(database.results())
    assert len(kept) >= 8
    again = subprocess.run(
        [*command[:-1]], capture_output=True, text=True, check=True
    )
    assert f'{len(kept)} already done' in again.stderr
    with open('out.csv', newline='') as file:
        found = list(csv.DictReader(file))
    assert len(found) == 303 and all(row['caption'] for row in found)
    captions = {row['image']: row['caption'] for row in found}
    assert all(captions[result.image] == result.caption for result in kept)


def test_debug_prints_the_traceback(folder, capsys):
    assert main(['nowhere', '-o', 'out.jsonl', '--debug']) == 1
    err = capsys.readouterr().err
    assert 'Traceback' in err and 'error: nowhere does not exist' in err


def test_an_unreadable_image_is_counted_named_and_exported(
    folder, scenes, loads, capsys
):
    Path('images/text.png').write_text('no image')
    Path('images/cut.png').write_bytes(Path('images/0.png').read_bytes()[:300])
    assert main(['images', 'images/gone.png', '-o', 'out.jsonl']) == 1
    assert 'gone.png does not exist' in capsys.readouterr().err
    assert not Path('out.sqlite').exists(), 'a mistyped name wrote a file'
    Path('list.txt').write_text('images/gone.png\n')
    command = ['images', 'list.txt', '-o', 'out.jsonl']
    command += ['--max-new-tokens', '3']
    assert main(command) == 1
    err = capsys.readouterr().err
    assert '3 answered' in err and '3 failed; 6 rows' in err
    for name in ('text', 'cut', 'gone'):
        assert err.count(f'failed: images/{name}.png') == 1
    failed = {row['image']: row for row in rows() if row['error']}
    assert len(failed) == 3
    text = failed['images/text.png']
    assert 'cannot be read as an image' in text['error']
    assert text['caption'] is None
    # an image that is still unreadable does not load the model
    before = Path('out.jsonl').read_bytes()
    assert main([*command, '--quiet']) == 1
    assert Path('out.jsonl').read_bytes() == before and len(loads) == 1
    assert not capsys.readouterr().err
    for name in ('text', 'cut', 'gone'):
        scenes[1][1].save(f'images/{name}.png')
    assert main([*command, '-q']) == 0
    assert len(rows()) == 6 and not any(row['error'] for row in rows())


def test_a_prompt_that_is_too_long_is_the_error_of_its_row(
    folder, capsys, requests
):
    """It ended the run, and every further one (vllm #16732, #10777)."""
    Path('list.csv').write_text(
        f'image,prompt\nimages/0.png,{HOW_MANY}\n'
        f'images/1.png,{"shape " * 600}\nimages/2.png,\n'
    )
    command = ['list.csv', '-o', 'out.jsonl', '--prompt', 'Who are you?']
    command += ['--max-new-tokens', '3']
    assert main([*command, '--slots', '1']) == 1
    first, long, last = rows()
    assert 'tokens' in long['error'] and long['caption'] is None
    assert first['caption'] and last['caption']
    assert last['prompt'] == 'Who are you?', 'a blank cell means --prompt'
    del requests[:]
    before = Path('out.jsonl').read_bytes()
    assert main(command) == 1
    assert len(requests) == 1, 'an answered prompt was requested again'
    assert Path('out.jsonl').read_bytes() == before
    err = capsys.readouterr().err
    assert '2 answered' in err and '0 answered' in err and '1 failed' in err


def test_an_invalid_row_is_exported_until_it_is_repaired(folder, requests):
    good = json.dumps(dict(image='images/0.png', prompt=HOW_MANY))
    bad = json.dumps(dict(image='images/1.png', prompt='cut \ud83d'))
    Path('list.jsonl').write_text(f'{good}\n{bad}\nno JSON\n')
    assert main(['list.jsonl', '-o', 'out.jsonl', *SHORT]) == 1
    assert [bool(row['error']) for row in rows()] == [False, True, True]
    assert rows()[2]['image'] == 'list.jsonl line 3'
    assert 'half a character' in rows()[1]['error']
    last = json.dumps(dict(image='images/2.png', prompt=HOW_MANY))
    Path('list.jsonl').write_text(f'{good}\n{last}\n')
    assert main(['list.jsonl', '-o', 'out.jsonl', *SHORT]) == 0
    assert len(requests) == 2
    assert not any('line 3' in row['image'] for row in rows())


def test_a_special_file_is_the_error_of_its_row(folder, capsys):
    os.mkfifo('images/fifo.png')
    Path('images/zero.png').symlink_to('/dev/zero')
    Path('images/folder.png').mkdir()
    Path('list.txt').write_text('images/folder.png\n')
    command = ['images', 'list.txt', '-o', 'out.jsonl', '--gallery']
    command += ['--max-new-tokens', '3']
    assert main(command) == 1
    errors = {row['image']: row['error'] for row in rows() if row['error']}
    assert 'is a FIFO' in errors['images/fifo.png']
    assert 'is a character device' in errors['images/zero.png']
    assert 'is a folder' in errors['images/folder.png']
    assert '3 answered' in capsys.readouterr().err
    assert main([*command, '-q']) == 1, 'and again'


def test_a_model_that_always_fails_ends_the_run(
    model, folder, monkeypatch, capsys
):
    def fail(*args):
        raise RuntimeError('out of memory')

    Path('list.csv').write_text(
        'image,prompt\n'
        + ''.join(f'images/{i % 3}.png,{HOW_MANY}{i}\n' for i in range(40))
    )
    command = ['list.csv', '-o', 'out.jsonl', '--slots', '1']
    command += ['--max-new-tokens', '3']
    with monkeypatch.context() as patched:
        patched.setattr(model.neck, 'forward', fail)
        assert main(command) == 1
    assert capsys.readouterr().err == (
        'error: the model failed at 16 questions in succession (out of '
        'memory); what was answered before is kept.\n'
    )
    assert main(command) == 0
    assert len(rows()) == 40 and not any(row['error'] for row in rows())


def test_a_list_is_not_overwritten(folder, capsys):
    text = f'image,prompt\nimages/0.png,{HOW_MANY}\n'
    Path('list.csv').write_text(text)
    for arguments in (['-o', 'list.csv'], ['-o', 'list.csv', '--overwrite']):
        assert main(['list.csv', *arguments]) == 1
    assert Path('list.csv').read_text() == text
    assert 'would replace the list list.csv' in capsys.readouterr().err


def test_a_list_is_not_imported_as_results_of_0_1(folder):
    """list.jsonl as a source, list.csv as the output."""
    Path('list.jsonl').write_text('{"image": "images/0.png"}\n')
    assert main(['list.jsonl', '-o', 'list.csv', *SHORT]) == 0
    assert len(Path('list.csv').read_text().splitlines()) == 2


@pytest.mark.parametrize('suffix', ['.csv', '.parquet'])
def test_a_file_that_is_no_export_is_not_replaced(folder, suffix):
    out = Path(f'out{suffix}')
    out.write_text('mine')
    assert main(['images', '-o', str(out), *SHORT]) == 1
    assert out.read_text() == 'mine' and not Path('out.sqlite').exists()
    assert main(['images', '-o', str(out), *SHORT, '--overwrite']) == 0
    assert out.read_bytes() != b'mine'


NAMES = [
    '=1+1.png',
    '\t=1.png',
    "'=1.png",
    'a;=1.png',
    'new\n-line.png',
    '\x1b[31mred.png',
    '<:script><b>.png',
    os.fsdecode(b'\xff\xfe.png'),
    '\u202egnp.exe.png',
]


def test_special_characters_of_names_are_escaped(folder, scenes, capsys):
    """No formulas in CSV, no control characters in terminal or gallery."""
    Path('odd').mkdir()
    for name in NAMES:
        scenes[1][0].save(Path('odd', name))
    Path('odd/\x1b]0;x\x07\nbad.png').write_text('no image')
    command = ['odd', '-o', 'out.csv', '--gallery', '--max-new-tokens', '3']
    command += ['--prompt', '=1+1', '--prompt', '- a;\n@b']
    assert main(command) == 1
    err = capsys.readouterr().err
    assert not {'\x1b', '\x07', '\u202e'} & {*err}
    assert err.count('\n') == 4, 'a name takes one line'
    text = Path('out.csv').read_text('utf-8')
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple('=+-@\t\r'))]
    page = Path('out.html').read_text('utf-8')
    assert page.count('</script') == 2
    assert not {'\x1b', '\u202e'} & {*page}
    # an export is a list of the same names and prompts
    found = find_images(['out.csv'])
    assert {entry.prompt for entry in found} == {'=1+1', '- a;\n@b'}
    assert {entry.image for entry in found} == {
        os.path.join('odd', name) for name in os.listdir('odd')
    }
    capsys.readouterr()
    assert main([*command, '-q']) == 1, 'names are found again'
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nowhere', '-o', 'o.jsonl'], 'nowhere does not exist'),
        (['empty', '-o', 'o.jsonl'], 'empty has no images'),
        (
            ['bad.csv', '-o', 'o.jsonl'],
            'bad.csv names no image: its first line has the columns file',
        ),
        (
            ['bad.jsonl', '-o', 'o.jsonl'],
            'bad.jsonl cannot be read as a list',
        ),
        (['images', '-o', 'file.jsonl/x.jsonl'], 'file.jsonl is a file'),
        (['images', '-o', 'dir.jsonl'], 'dir.jsonl is a folder'),
        (['images', '-o', 'fifo.csv'], 'fifo.csv is not a regular file'),
        (['images', '-o', 'other.csv'], 'other.sqlite is damaged or no'),
        (
            ['images', '-o', 'notes.jsonl'],
            'holds something else than captions (line 1)',
        ),
        (
            ['images', '-o', 'o.jsonl', '--prompt', '<ImageHere> <ImageHere>'],
            'several <ImageHere>',
        ),
        (
            ['images', '-o', 'o.jsonl', '--gallery', 'notes.jsonl'],
            'notes.jsonl exists and is not a gallery',
        ),
    ],
)
def test_a_run_that_cannot_start_has_a_one_line_error(
    folder, loads, capsys, arguments, message
):
    Path('empty').mkdir()
    Path('dir.jsonl').mkdir()
    Path('bad.csv').write_text('file\nx.png\n')
    Path('bad.jsonl').write_text('x.png\n')
    Path('file.jsonl').write_text('')
    Path('notes.jsonl').write_text('{"mine": 1}')
    Path('other.sqlite').write_text('{"mine": 1}')
    os.mkfifo('fifo.csv')
    before = sorted(Path().rglob('*'))
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith('error: ') and message in err
    assert err.count('\n') == 1
    assert not loads
    assert sorted(Path().rglob('*')) == before
    assert Path('notes.jsonl').read_text() == '{"mine": 1}'
    assert Path('other.sqlite').read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['-o', 'o.txt'], 'has the suffix .txt'),
        (['-o', 'o.jsonl', '--model', 'minigpt-4_nano'], 'did you mean'),
        (['-o', 'o.jsonl', '--pretrained', 'no.pth'], 'no.pth does not exist'),
        (['-o', 'o.jsonl', '--slots', '0'], '0 is not a whole number above 0'),
        (['-o', 'o.jsonl', '--temperature', '-1'], 'temperature is -1'),
    ],
)
def test_a_wrong_command_line_is_refused(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(['images', *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_answers_of_different_settings_are_not_mixed(folder, capsys):
    assert main(['images', '-o', 'out.jsonl', *SHORT]) == 0
    before = Path('out.jsonl').read_bytes()
    again = ['images', '-o', 'out.jsonl', '--max-new-tokens', '2', '-q']
    assert main(again) == 1
    assert (
        "out.sqlite holds answers with settings {'max_new_tokens': 3}, now "
        "it is {'max_new_tokens': 2}"
    ) in capsys.readouterr().err
    assert Path('out.jsonl').read_bytes() == before
    assert main([*again, '--overwrite']) == 0
    assert [row['tokens'] for row in rows()] == [2] * 3


def test_results_of_other_images_stay(folder):
    main(['images/0.png', 'images/1.png', '-o', 'out.jsonl', *SHORT])
    main(['images/2.png', '-o', 'out.jsonl', *SHORT])
    assert names() == [f'images/{i}.png' for i in (2, 0, 1)]
