# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions of many pictures, in tables that runs go on with."""

import contextlib
import csv
import fcntl
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

import minigpt4
from minigpt4 import loading
from minigpt4.captioning import batch, gallery, run, table
from minigpt4.captioning import table as table_module
from minigpt4.captioning.batch import Job, answer_all, in_order
from minigpt4.captioning.sources import find_questions
from minigpt4.captioning.table import CaptionRow, CaptionTable
from minigpt4.generation.engine import Engine
from minigpt4.generation.sampling import SamplingParams
from minigpt4.generation.settings import complete_settings
from minigpt4.nano import grammar
from minigpt4.nano.world import render, sample_scene
from minigpt4_cli import main as cli
from minigpt4_cli import options


def main(arguments):
    return cli.main(['caption', *arguments])


NAME = 'minigpt-4_nano_caption'
HOW_MANY = 'How many shapes are there?'


@pytest.fixture(scope='module')
def model():
    return minigpt4.get_model(NAME, device='cpu').eval()


@pytest.fixture(scope='module')
def scenes():
    rng = random.Random(4)
    scenes = [sample_scene(rng, held_out=True) for _ in range(6)]
    return scenes, [render(scene, rng) for scene in scenes]


@pytest.fixture
def folder(scenes, tmp_path, monkeypatch):
    """Six pictures; the current folder is the one that they lie in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'pics').mkdir()
    for i, picture in enumerate(scenes[1]):
        picture.save(tmp_path / 'pics' / f'{i}.png')
    return tmp_path


@pytest.fixture(autouse=True)
def loaded(model, monkeypatch):
    """The verb with one model for all tests; how often it was built."""
    built = []

    def load(*args):
        built.append(args)
        return model

    monkeypatch.setattr(run, 'load_model', load)
    return built


@pytest.fixture
def asked(monkeypatch):
    """What the engine is asked: the settings of each question."""
    submitted = []
    submit = Engine.submit

    def spy(self, row, images, **settings):
        submitted.append(settings)
        return submit(self, row, images, **settings)

    monkeypatch.setattr(Engine, 'submit', spy)
    return submitted


def rows(path='out.jsonl'):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_folder_gives_what_single_pictures_give(
    model, folder, scenes, capsys
):
    assert main(['pics', '-o', 'out.jsonl']) == 0
    assert [row['image'] for row in rows()] == [
        f'pics/{i}.png' for i in range(6)
    ]
    alone = [
        minigpt4.inference_model(model, f'pics/{i}.png')['pred_caption']
        for i in range(6)
    ]
    assert [row['caption'] for row in rows()] == alone
    assert len(set(alone)) == 6
    assert alone[1] == grammar.description(scenes[0][1])
    assert {row['prompt'] for row in rows()} == {
        'Describe this image in detail.'
    }
    assert all(row['finished'] and row['tokens'] > 5 for row in rows())
    out, err = capsys.readouterr()
    assert not out
    assert '6 answered' in err and '6 rows: out.jsonl' in err


def test_many_are_in_flight_and_few_are_held(model, folder, monkeypatch):
    """Slots are filled, and no more pictures are decoded than it takes."""
    decoded, running, held = [], [], []
    load, step = batch._load, Engine.step
    monkeypatch.setattr(
        batch, '_load', lambda *a: decoded.append(a) or load(*a)
    )

    def spy(self):
        more = step(self)
        running.append(self.running)
        return more

    monkeypatch.setattr(Engine, 'step', spy)
    jobs = [Job(f'pics/{i % 6}.png', f'{HOW_MANY}{i}') for i in range(40)]
    answered = 0
    for _ in answer_all(model, jobs, 2, 2, {}):
        answered += 1
        held.append(len(decoded) - answered)
    assert answered == 40
    assert max(running) == 2
    assert max(held) <= 4 * 2 + 2 * 2


def test_prompts_of_like_length_go_together_within_a_window():
    jobs = [Job('a', 'xx'), Job('a', 'x'), Job('b', 'x'), Job('c', '')]
    assert list(in_order(jobs, 3)) == [
        Job('a', 'x'),
        Job('b', 'x'),
        Job('a', 'xx'),
        Job('c', ''),
    ]


def test_several_prompts_and_settings(folder, scenes, asked):
    arguments = ['pics/0.png', 'pics/1.png', '-o', 'out.jsonl']
    prompts = ['--prompt', HOW_MANY, '--prompt', 'Write a poem.']
    assert main([*arguments, *prompts, '--max-new-tokens', '4']) == 0
    assert [(row['image'], row['prompt']) for row in rows()] == [
        (f'pics/{i}.png', prompt)
        for i in range(2)
        for prompt in (HOW_MANY, 'Write a poem.')
    ]
    assert [row['tokens'] for row in rows()] == [4] * 4
    assert not any(row['finished'] for row in rows())
    assert asked == [{'max_new_tokens': 4}] * 4
    assert rows()[0]['settings'] == {'max_new_tokens': 4}


def test_a_second_run_does_what_is_missing_or_changed(
    folder, scenes, loaded, asked
):
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    first = Path('out.jsonl').read_bytes()
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    assert Path('out.jsonl').read_bytes() == first
    assert len(loaded) == 1, 'the model was built to do nothing'
    scenes[1][5].save('pics/2.png')  # changed
    scenes[1][1].save('pics/10.png')  # new
    del asked[:]
    assert main(['./pics/', '-o', 'out.jsonl', '-q']) == 0
    assert len(asked) == 2
    found = {row['image']: row['caption'] for row in rows()}
    assert len(rows()) == 7
    assert found['pics/2.png'] == grammar.description(scenes[0][5])
    assert found['pics/10.png'] == grammar.description(scenes[0][1])
    assert [row['image'] for row in rows()] == sorted(found)


def test_a_killed_run_goes_on_and_half_a_line_is_repaired(
    folder, monkeypatch, asked
):
    add = CaptionTable.add

    def killed(self, row):
        if len(self) == 3:
            raise KeyboardInterrupt
        add(self, row)

    with monkeypatch.context() as patched:
        patched.setattr(CaptionTable, 'add', killed)
        assert main(['pics', '-o', 'out.jsonl']) == 130
    assert len(rows()) == 3
    whole = Path('out.jsonl').read_bytes()
    Path('out.jsonl').write_bytes(whole + whole[:70])
    del asked[:]
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    assert len(asked) == 3
    assert [row['image'] for row in rows()] == [
        f'pics/{i}.png' for i in range(6)
    ]


@pytest.mark.parametrize(
    'signum', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_a_stopped_run_keeps_what_was_answered(
    folder, monkeypatch, asked, capsys, signum
):
    step = Engine.step
    steps = []

    def stopped(self):
        steps.append(self)
        if len(steps) == 60:
            os.kill(os.getpid(), signum)
        return step(self)

    before = signal.getsignal(signum)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, 'step', stopped)
        command = ['pics', '-o', 'out.csv', '--slots', '1']
        assert main(command) == 128 + signum
    assert signal.getsignal(signum) == before
    err = capsys.readouterr().err
    assert err == (
        f'\nstopped by {signal.Signals(signum).name}; what was answered is '
        'kept, and the same command continues from there.\n'
    )
    kept = rows()
    assert 0 < len(kept) < 6 and all(row['caption'] for row in kept)
    assert not Path('out.csv').exists()
    del asked[:]
    assert main(command) == 0
    assert len(asked) == 6 - len(kept)
    with open('out.csv', newline='') as file:
        assert len(list(csv.DictReader(file))) == 6


def test_debug_shows_the_traceback(folder, capsys):
    assert main(['nowhere', '-o', 'out.jsonl', '--debug']) == 1
    err = capsys.readouterr().err
    assert 'Traceback' in err and 'error: nowhere does not exist' in err


def test_a_last_line_that_only_lacks_its_end_is_kept(folder, asked):
    main(['pics', '-o', 'out.jsonl', '-q'])
    whole = Path('out.jsonl').read_bytes()
    Path('out.jsonl').write_bytes(whole[:-1])
    del asked[:]
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    assert not asked
    assert Path('out.jsonl').read_bytes() == whole


@pytest.mark.slow
def test_a_run_that_is_really_killed_goes_on(folder, scenes):
    for i in range(300):
        scenes[1][i % 6].save(f'pics/{i:03}.png')
    command = [sys.executable, '-m', 'minigpt4_cli.main']
    command += ['caption', 'pics', '-o', 'out.csv', '--quiet']
    run = subprocess.Popen(command)
    table = Path('out.jsonl')
    while not (table.exists() and table.stat().st_size > 20_000):
        assert run.poll() is None, 'it ended before it could be killed'
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = table.read_bytes().rpartition(b'\n')[0]
    assert not Path('out.csv').exists()
    assert subprocess.run(command).returncode == 0
    with open('out.csv', newline='') as file:
        found = list(csv.DictReader(file))
    assert len(found) == 306 and all(row['caption'] for row in found)
    assert set(kept.splitlines()) <= set(table.read_bytes().splitlines())


def test_a_bad_picture_is_counted_named_and_in_the_table(
    folder, scenes, loaded, capsys
):
    Path('pics/text.png').write_text('no picture')
    Path('pics/cut.png').write_bytes(Path('pics/0.png').read_bytes()[:300])
    assert main(['pics', 'pics/gone.png', '-o', 'out.jsonl']) == 1
    assert 'gone.png does not exist' in capsys.readouterr().err
    assert not Path('out.jsonl').exists(), 'a word mistyped wrote a file'
    Path('list.txt').write_text('pics/gone.png\n')
    assert main(['pics', 'list.txt', '-o', 'out.jsonl']) == 1
    err = capsys.readouterr().err
    assert '6 answered' in err and '3 failed; 9 rows' in err
    for name in ('text', 'cut', 'gone'):
        assert err.count(f'failed: pics/{name}.png') == 1
    bad = {row['image']: row for row in rows() if row['error']}
    assert len(bad) == 3
    assert 'cannot be read as an image' in bad['pics/text.png']['error']
    assert bad['pics/text.png']['caption'] is None
    # what stays bad costs no model and no line; what is mended is answered
    before = Path('out.jsonl').read_bytes()
    assert main(['pics', 'list.txt', '-o', 'out.jsonl', '--quiet']) == 1
    assert Path('out.jsonl').read_bytes() == before and len(loaded) == 1
    assert not capsys.readouterr().err
    for name in ('text', 'cut', 'gone'):
        scenes[1][1].save(f'pics/{name}.png')
    assert main(['pics', 'list.txt', '-o', 'out.jsonl', '-q']) == 0
    assert len(rows()) == 9 and not any(row['error'] for row in rows())


def test_an_error_of_the_engine_is_a_row_too(model, folder, monkeypatch):
    def broken(*args):
        raise RuntimeError('out of memory\nlong explanation')

    monkeypatch.setattr(model.neck, 'forward', broken)
    found = list(answer_all(model, [Job('pics/0.png', HOW_MANY)], 2, 1, {}))
    assert [row['error'] for row in found] == ['out of memory']


def test_a_prompt_that_is_too_long_is_the_error_of_its_row(
    folder, capsys, asked
):
    """It ended the run, and every further one (vllm #16732, #10777)."""
    Path('list.csv').write_text(
        f'image,prompt\npics/0.png,{HOW_MANY}\n'
        f'pics/1.png,{"shape " * 600}\npics/2.png,\n'
    )
    command = ['list.csv', '-o', 'out.jsonl', '--prompt', 'Who are you?']
    assert main([*command, '--slots', '1']) == 1
    first, long, last = rows()
    assert 'tokens' in long['error'] and long['caption'] is None
    assert first['caption'] and last['caption']
    assert last['prompt'] == 'Who are you?', 'a blank cell means --prompt'
    del asked[:]
    before = Path('out.jsonl').read_bytes()
    assert main(command) == 1
    assert len(asked) == 1, 'what is answered is not asked again'
    assert Path('out.jsonl').read_bytes() == before
    err = capsys.readouterr().err
    assert '2 answered' in err and '0 answered' in err and '1 failed' in err


def test_a_broken_row_is_in_the_table_until_it_is_repaired(folder, asked):
    good = json.dumps(dict(image='pics/0.png', prompt=HOW_MANY))
    bad = json.dumps(dict(image='pics/1.png', prompt='cut \ud83d'))
    Path('list.jsonl').write_text(f'{good}\n{bad}\nno JSON\n')
    assert main(['list.jsonl', '-o', 'out.jsonl', '-q']) == 1
    assert [bool(row['error']) for row in rows()] == [False, True, True]
    assert rows()[2]['image'] == 'list.jsonl line 3'
    assert 'half a character' in rows()[1]['error']
    last = json.dumps(dict(image='pics/2.png', prompt=HOW_MANY))
    Path('list.jsonl').write_text(f'{good}\n{last}\n')
    assert main(['list.jsonl', '-o', 'out.jsonl', '-q']) == 0
    assert len(asked) == 2
    assert not any('line 3' in row['image'] for row in rows())


def test_what_would_block_is_the_error_of_its_row(folder, capsys):
    os.mkfifo('pics/fifo.png')
    Path('pics/zero.png').symlink_to('/dev/zero')
    Path('pics/folder.png').mkdir()
    Path('list.txt').write_text('pics/folder.png\n')
    assert main(['pics', 'list.txt', '-o', 'out.csv', '--gallery']) == 1
    errors = {row['image']: row['error'] for row in rows() if row['error']}
    assert 'is a FIFO' in errors['pics/fifo.png']
    assert 'is a character device' in errors['pics/zero.png']
    assert 'is a folder' in errors['pics/folder.png']
    assert '6 answered' in capsys.readouterr().err
    assert main(['pics', '-o', 'out.csv', '-q']) == 1, 'and again'


def test_a_failure_of_any_kind_is_the_error_of_its_row(
    model, folder, monkeypatch
):
    submit = Engine.submit

    def broken(self, row, images, **settings):
        if len(row.ids) > 40:
            raise KeyError('an unexpected kind')
        return submit(self, row, images, **settings)

    monkeypatch.setattr(Engine, 'submit', broken)
    jobs = [
        Job(f'pics/{i}.png', 'shape ' * 60 if i == 1 else HOW_MANY)
        for i in range(3)
    ]
    found = {row['image']: row for row in answer_all(model, jobs, 1, 1, {})}
    assert found['pics/1.png']['error'] == "'an unexpected kind'"
    assert found['pics/0.png']['caption'] and found['pics/2.png']['caption']


def test_a_model_that_always_fails_ends_the_run(
    model, folder, monkeypatch, capsys
):
    def broken(*args):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(model.neck, 'forward', broken)
    Path('list.csv').write_text(
        'image,prompt\n'
        + ''.join(f'pics/{i % 6}.png,{HOW_MANY}{i}\n' for i in range(99))
    )
    assert main(['list.csv', '-o', 'out.jsonl', '--slots', '2']) == 1
    err = capsys.readouterr().err
    assert err == (
        'error: the model failed at 16 questions in succession (out of '
        'memory); what was answered before is kept.\n'
    )
    assert len(rows()) == 16


@pytest.mark.parametrize(
    'damage, repaired',
    [
        (lambda data: data[:-9], True),
        (lambda data: data + b'{"ima', True),
        (lambda data: data + bytes(4096), True),
        (lambda data: data[:-9] + bytes(4096), True),
        (lambda data: b'{}\n' + data, False),
        (lambda data: data[:50] + b'\0' * 60 + data[110:], False),
        (lambda data: data.replace(b'"tokens": ', b'"tokens": "x'), False),
        (lambda data: data.replace(b'"error"', b'"reason"'), False),
        (lambda data: b'\x89PNG\r\n\x1a\n' + data, False),
        (lambda data: b'[' * 99999 + b'\n' + data, False),
        (lambda data: b'{"image": "a.png", "prompt": "x"}\n', False),
    ],
)
def test_a_damaged_table(folder, capsys, damage, repaired):
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    whole = Path('out.jsonl').read_bytes()
    damaged = damage(whole)
    Path('out.jsonl').write_bytes(damaged)
    capsys.readouterr()
    assert main(['pics', '-o', 'out.jsonl', '-q']) == (not repaired)
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and 'out.jsonl' in err
    if repaired:
        assert 'was cut off and is removed' in err
        assert len(rows()) == 6
        assert [row['caption'] for row in rows()] == [
            json.loads(line)['caption'] for line in whole.splitlines()
        ]
    else:
        assert 'something else than captions (line 1' in err
        assert Path('out.jsonl').read_bytes() == damaged


def test_a_table_of_a_later_version_is_named_so(folder, capsys):
    row = dict(image='a', prompt='b', caption='c', model=NAME, score=1)
    Path('out.jsonl').write_text(json.dumps(row) + '\n')
    assert main(['pics', '-o', 'out.jsonl']) == 1
    assert 'does not know: score' in capsys.readouterr().err


def test_a_table_of_an_earlier_version_is_read(folder, asked):
    row = dict(image='pics/0.png', prompt='Describe this image in detail.')
    about = os.stat('pics/0.png')
    row |= dict(caption='old', model=NAME, settings={})
    row |= dict(bytes=about.st_size, modified_ns=about.st_mtime_ns)
    Path('out.jsonl').write_text(json.dumps(row) + '\n')
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    assert len(asked) == 5 and rows()[0]['caption'] == 'old'


@pytest.mark.parametrize('kind', ['fifo', 'device'])
def test_an_output_is_a_regular_file(folder, capsys, kind):
    if kind == 'fifo':
        os.mkfifo('out.jsonl')
    else:
        Path('out.jsonl').symlink_to('/dev/zero')
    assert main(['pics', '-o', 'out.jsonl']) == 1
    assert 'out.jsonl is not a regular file' in capsys.readouterr().err


def test_a_disk_that_takes_half_a_row_leaves_none_of_it(tmp_path, monkeypatch):
    made_by = dict(model='m', weights=None, settings={})
    with contextlib.closing(
        CaptionTable(tmp_path / 'out.jsonl', made_by)
    ) as table:
        table.add(CaptionRow('a.png', 'x', 'first', **made_by))

    class Full:
        """A file on a disk that becomes full."""

        def __init__(self, file):
            self.file, self.calls = file, 0

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.calls += 1
            if self.calls == 2:
                raise OSError(28, 'No space left on device')
            return self.file.write(data[:20])

    monkeypatch.setattr(
        table_module,
        'open',
        lambda path, mode, **options: (
            Full(open(path, mode, **options))
            if mode == 'a+b'
            else open(path, mode, **options)
        ),
        raising=False,
    )
    table = CaptionTable(tmp_path / 'out.jsonl', made_by)
    with pytest.raises(OSError, match='No space'):
        table.add(CaptionRow('b.png', 'x', 'second', **made_by))
    table.close()
    (row,) = rows(tmp_path / 'out.jsonl')
    assert row['caption'] == 'first'


def test_a_list_is_not_overwritten(folder, capsys):
    text = f'image,prompt\npics/0.png,{HOW_MANY}\n'
    Path('list.csv').write_text(text)
    for arguments in (['-o', 'list.csv'], ['-o', 'list.csv', '--overwrite']):
        assert main(['list.csv', *arguments]) == 1
    assert Path('list.csv').read_text() == text
    assert 'would replace the list list.csv' in capsys.readouterr().err


NAMES = [
    '=1+1.png',
    '@SUM(1).png',
    '\t=1.png',
    "'=1.png",
    'a;=1.png',
    'new\n-line.png',
    '\x1b[31mred.png',
    '</script><b>.png'.replace('/', ':'),
    os.fsdecode(b'\xff\xfe.png'),
    '\u202egnp.exe.png',
]


def test_names_are_no_formulas_and_control_nothing(folder, scenes, capsys):
    """CSV has no formula, and gives back names; no escape is printed."""
    Path('odd').mkdir()
    for i, name in enumerate(NAMES):
        scenes[1][i % 6].save(Path('odd', name))
    Path('odd/\x1b]0;x\x07\nbad.png').write_text('no picture')
    prompt = ['--prompt', '=1+1', '--prompt', '- a;\n@b']
    assert main(['odd', '-o', 'out.csv', '--gallery', *prompt]) == 1
    err = capsys.readouterr().err
    assert not {'\x1b', '\x07', '\u202e'} & {*err}
    assert err.count('\n') == 4, 'a name is in one line'
    text = Path('out.csv').read_text('utf-8')
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple('=+-@\t\r'))]
    page = Path('out.html').read_text('utf-8')
    assert page.count('</script') == 2
    assert not {'\x1b', '\u202e'} & {*page}
    # the table is a list with the very names and questions
    found = find_questions(['out.csv'])
    assert {q.prompt for q in found} == {'=1+1', '- a;\n@b'}
    assert {q.image for q in found} == {
        os.path.join('odd', name) for name in os.listdir('odd')
    }
    assert [(q.image, q.prompt) for q in find_questions(['out.jsonl'])] == [
        (q.image, q.prompt) for q in found
    ]


@pytest.mark.parametrize('suffix', ['.csv', '.parquet'])
def test_tables(folder, suffix):
    Path('pics/bad.png').write_text('no picture')
    out = f'out{suffix}'
    assert main(['pics', '-o', out, '-q']) == 1
    if suffix == '.csv':
        with open(out, newline='', encoding='utf-8') as file:
            found = list(csv.DictReader(file))
    else:
        parquet = pytest.importorskip('pyarrow.parquet')
        found = parquet.read_table(out).to_pylist()
    assert list(found[0]) == [field.name for field in fields(CaptionRow)]
    assert [row['caption'] or None for row in found] == [
        row['caption'] for row in rows()
    ]
    assert found[-1]['error'] and int(found[0]['tokens']) > 5
    # a table that is not ours is not replaced
    Path('out.jsonl').unlink()
    before = Path(out).read_bytes()
    assert main(['pics', '-o', out]) == 1
    assert Path(out).read_bytes() == before
    assert main(['pics', '-o', out, '--overwrite', '-q']) == 1
    assert len(rows()) == 7


def test_parquet_without_pyarrow_is_refused_at_once(
    folder, monkeypatch, capsys, loaded
):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    monkeypatch.setattr(
        run.require_pyarrow.__globals__['importlib'].util,
        'find_spec',
        lambda name: None,
    )
    assert main(['pics', '-o', 'out.parquet']) == 1
    assert "pip install 'minigpt4[parquet]'" in capsys.readouterr().err
    assert not loaded and not Path('out.jsonl').exists()


def test_sources(folder, scenes, monkeypatch, capsys):
    Path('pics/below').mkdir()
    Path('pics/.hidden.png').write_text('')
    Path('pics/notes.txt').write_text('')
    scenes[1][0].save('pics/below/Ünï cödé.PNG')
    scenes[1][0].save('no_suffix', 'PNG')
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    assert len(rows()) == 6
    several = ['pics/[01].png', 'pics', 'pics/0.png', 'no_suffix', '-r']
    assert main([*several, '-o', 'b.jsonl', '-q']) == 0
    assert [row['image'] for row in rows('b.jsonl')] == [
        'pics/0.png',
        'pics/1.png',
        *(f'pics/{i}.png' for i in range(2, 6)),
        'pics/below/Ünï cödé.PNG',
        'no_suffix',
    ]
    Path('list.jsonl').write_text(
        json.dumps({'image': 'pics/0.png', 'prompt': HOW_MANY})
        + '\n'
        + json.dumps({'image': 'pics/1.png'})
    )
    Path('list.csv').write_text(f'image,prompt\npics/2.png,"{HOW_MANY}"\n')
    monkeypatch.setattr('sys.stdin', iter(['pics/3.png\n', '\n']))
    main(['list.jsonl', 'list.csv', '-', '-o', 'c.jsonl', '-q'])
    assert [(row['image'], row['prompt']) for row in rows('c.jsonl')] == [
        ('pics/0.png', HOW_MANY),
        ('pics/1.png', 'Describe this image in detail.'),
        ('pics/2.png', HOW_MANY),
        ('pics/3.png', 'Describe this image in detail.'),
    ]
    assert rows('c.jsonl')[0]['caption'].startswith('There ')
    # the table is itself a list
    assert main(['c.jsonl', '-o', 'd.jsonl', '-q']) == 0
    assert len(rows('d.jsonl')) == 4


def test_names_that_are_no_utf8(folder, scenes):
    name = os.fsdecode(b'pics/caf\xe9.png')
    scenes[1][0].save(name)
    assert main(['pics', '-o', 'out.csv', '--gallery', '-q']) == 0
    assert name in [row['image'] for row in rows()]
    assert 'caf\\udce9.png' in Path('out.csv').read_text('utf-8')
    assert main(['pics', '-o', 'out.csv', '-q']) == 0
    assert len(rows()) == 7


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nowhere', '-o', 'o.jsonl'], 'nowhere does not exist'),
        (['empty', '-o', 'o.jsonl'], 'empty has no pictures'),
        (['*.gif', '-o', 'o.jsonl'], 'no file is called'),
        (
            ['bad.csv', '-o', 'o.jsonl'],
            'bad.csv names no picture: its first line has the columns file',
        ),
        (['bad.jsonl', '-o', 'o.jsonl'], 'bad.jsonl cannot be read as a list'),
        (['pics', '-o', 'pics.jsonl/x.jsonl'], 'pics.jsonl'),
        (['pics', '-o', 'notes.jsonl'], 'holds something else (line 1)'),
        (
            ['pics', '-o', 'o.jsonl', '--prompt', '<ImageHere> <ImageHere>'],
            'several <ImageHere>',
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    folder, loaded, capsys, arguments, message
):
    Path('empty').mkdir()
    Path('bad.csv').write_text('file\nx.png\n')
    Path('bad.jsonl').write_text('x.png\n')
    Path('pics.jsonl').write_text('')
    Path('notes.jsonl').write_text('{"mine": 1}')
    before = sorted(Path().rglob('*'))
    assert main(arguments) == 1
    err = capsys.readouterr().err
    message = message.replace('else (', 'else than captions (')
    assert err.startswith('error: ') and message in err
    assert err.count('\n') == 1
    assert not loaded
    assert sorted(Path().rglob('*')) == before
    assert Path('notes.jsonl').read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['-o', 'o.txt'], 'has the suffix .txt'),
        (['-o', 'o.jsonl', '--model', 'minigpt-4_nano'], 'did you mean'),
        (['-o', 'o.jsonl', '--pretrained', 'no.pth'], 'no.pth does not exist'),
        (['-o', 'o.jsonl', '--slots', '0'], '0 is not above 0'),
        (['-o', 'o.jsonl', '--temperature', '-1'], 'temperature is -1'),
    ],
)
def test_usage(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(['pics', *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_answers_of_other_settings_are_not_mixed(folder, capsys):
    assert main(['pics', '-o', 'out.jsonl', '-q']) == 0
    before = Path('out.jsonl').read_bytes()
    again = ['pics', '-o', 'out.jsonl', '--max-new-tokens', '3', '-q']
    assert main(again) == 1
    err = capsys.readouterr().err
    assert "settings {} (line 1), now it is {'max_new_tokens': 3}" in err
    assert Path('out.jsonl').read_bytes() == before
    assert main([*again, '--overwrite']) == 0
    assert [row['tokens'] for row in rows()] == [3] * 6


def test_rows_of_other_pictures_stay(folder):
    main(['pics/0.png', 'pics/1.png', '-o', 'out.jsonl', '-q'])
    main(['pics/2.png', '-o', 'out.jsonl', '-q'])
    assert [row['image'] for row in rows()] == [
        f'pics/{i}.png' for i in (2, 0, 1)
    ]


def test_two_runs_do_not_write_one_table(folder, capsys):
    with open('out.jsonl', 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert main(['pics', '-o', 'out.jsonl']) == 1
    assert 'another run is writing out.jsonl' in capsys.readouterr().err


def test_a_folder_that_may_not_be_written(folder, monkeypatch, capsys, loaded):
    def refused(path):  # root, who may run this, is refused nothing
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(table, '_open_alone', refused)
    assert main(['pics', '-o', 'closed/out.jsonl']) == 1
    err = capsys.readouterr().err
    assert err == 'error: closed/out.jsonl: Permission denied\n'
    assert not loaded


def test_a_full_disk_keeps_what_was_written(folder, monkeypatch, capsys):
    add = CaptionTable.add

    def full(self, row):
        if len(self) == 2:
            raise OSError(28, 'No space left on device', 'out.jsonl')
        add(self, row)

    monkeypatch.setattr(CaptionTable, 'add', full)
    assert main(['pics', '-o', 'out.jsonl']) == 1
    assert 'No space left on device' in capsys.readouterr().err
    assert len(rows()) == 2


def test_gallery(folder, scenes):
    evil = 'pics/<img src=x onerror=alert(1)>.png'
    scenes[1][0].resize((640, 480)).convert('RGBA').save(evil)
    Path('pics/text.png').write_text('<b>')
    arguments = ['pics', '-o', 'out.jsonl', '--gallery', '-q']
    assert main([*arguments, '--prompt', HOW_MANY, '--prompt', '</script>'])
    page = Path('out.html').read_text('utf-8')
    assert page.count('<script') == 2 and page.count('</script>') == 2
    assert '<img' not in page and not re.search('(src|href)="?http', page)
    place = re.search(r'id="items">(.*?)</script>', page, re.DOTALL)[1]
    items = json.loads(place)
    assert [item['image'] for item in items] == sorted(
        [evil, 'pics/text.png', *(f'pics/{i}.png' for i in range(6))]
    )
    (one,) = (item for item in items if item['image'] == evil)
    assert [answer[0] for answer in one['answers']] == [HOW_MANY, '</script>']
    assert one['thumbnail'].startswith('data:image/jpeg;base64,')
    assert len(one['thumbnail']) < 20_000
    (bad,) = (item for item in items if item['image'] == 'pics/text.png')
    assert (
        bad['thumbnail'] is None and 'cannot be read' in bad['answers'][0][2]
    )


@pytest.mark.parametrize('page', ['notes.html', 'pics', 'notes.html/x.html'])
def test_a_gallery_that_cannot_be_written_is_refused_at_once(
    folder, loaded, capsys, page
):
    Path('notes.html').write_text('<html>mine</html>')
    assert main(['pics', '-o', 'out.jsonl', '--gallery', page]) == 1
    assert capsys.readouterr().err.startswith('error: ')
    assert Path('notes.html').read_text() == '<html>mine</html>'
    assert not loaded and not Path('out.jsonl').exists()


@pytest.mark.slow
def test_the_gallery_in_a_browser(chromium, folder):
    from playwright.sync_api import expect

    evil = '<img src=x onerror=document.title=1>'
    found = [
        CaptionRow(f'pics/{i % 6}.png#{i}', HOW_MANY, f'{evil} number{i}.')
        for i in range(119)
    ]
    found.append(CaptionRow('pics/0.png', HOW_MANY, None, 'cannot be read'))
    gallery.write_gallery(found, Path('page.html'))
    page = chromium.new_page()
    faults: list = []
    page.on('pageerror', lambda fault: faults.append(fault))
    page.goto(Path('page.html').absolute().as_uri())
    cards = page.locator('article')
    expect(page.locator('#count')).to_have_text('120 of 120')
    assert cards.count() == 50, 'cards are made before they are needed'
    expect(cards.first).to_contain_text(f'{evil} number0.')
    cards.last.scroll_into_view_if_needed()
    expect(cards).not_to_have_count(50)
    page.fill('#search', 'HOW number77.')
    expect(cards).to_have_count(1)
    page.fill('#search', '')
    page.check('#failed')
    expect(cards).to_have_count(1)
    assert cards.locator('img').evaluate('i => i.naturalWidth') == 64
    assert page.title() == 'MiniGPT-4 captions' and not faults
    page.close()


def test_no_gallery_is_left_half_written(folder, monkeypatch):
    def broken(path):
        raise RuntimeError('stop')

    monkeypatch.setattr(gallery, 'thumbnail', broken)
    row = CaptionRow('pics/0.png', 'x', 'y')
    with pytest.raises(RuntimeError):
        gallery.write_gallery([row], Path('page.html'))
    assert not list(Path().glob('*page*'))


def test_settings_of_the_command_line_are_those_of_the_engine():
    assert {*options.SETTINGS, 'stop'} == {
        f.name for f in fields(SamplingParams)
    }


@pytest.mark.parametrize(
    'given, used',
    [
        ({}, {}),
        ({'seed': 1}, {'seed': 1}),
        (
            {'temperature': 0.5},
            {'temperature': 0.5, 'do_sample': True},
        ),
        ({'temperature': 0.0, 'top_p': 0.5}, {'do_sample': False}),
        ({'top_k': 3, 'do_sample': False}, {'top_k': 3, 'do_sample': False}),
    ],
)
def test_setting_something_of_sampling_samples(given, used):
    assert complete_settings(given) == used


@pytest.mark.parametrize(
    'name, pretrained, message',
    [
        ('minigpt-4_vicuna-13b_caption', None, 'no projection is published'),
        ('configs/minigpt4/stage2_nano.py', None, 'no projection'),
        (NAME, 'demo/scene.png', 'cannot be read as weights'),
        (NAME, 'demo', 'demo is a folder; give the file of a checkpoint'),
    ],
)
def test_a_model_that_cannot_be_had(monkeypatch, name, pretrained, message):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(ValueError, match=message):
        loading.load_model(name, pretrained, 'cpu')


@pytest.mark.parametrize(
    'text',
    [
        'no config',
        'model = dict(',
        'x = 1',
        'raise KeyError("a")',
        '# \xff\xfe',
        'model = dict(type=int)',
    ],
)
def test_a_config_that_is_none(folder, monkeypatch, capsys, text):
    Path('mine.py').write_text(text, 'latin-1')
    model = ['--model', 'mine.py', '--pretrained', 'mine.py']
    # the last one has a model, of which only its builder knows
    status = 0 if 'int' in text else 1
    assert main(['pics', '-o', 'out.jsonl', *model]) == status
    with pytest.raises(ValueError, match='mine.py'):
        loading.load_model('mine.py', 'mine.py', 'cpu')


def test_nothing_of_loading_is_on_standard_output(capfd):
    with loading.quiet_logs():
        loading.load_model(NAME, None, 'cpu')
    out, err = capfd.readouterr()
    assert not out and not err
