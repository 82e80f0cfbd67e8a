# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The chat in a terminal, typed into a pseudo-terminal and from scripts."""

import contextlib
import http.server
import io
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

import minigpt4
from minigpt4.chat.session import ChatSession
from minigpt4.generation.engine import Engine
from minigpt4.nano import grammar
from minigpt4.nano.world import render, sample_scene
from minigpt4.terminal import commands
from minigpt4.terminal import run as talk
from minigpt4.terminal.answer_view import block_end, show_markdown, show_plain
from minigpt4.terminal.typed_images import split_line, words_of
from minigpt4_cli import main as cli


def main(arguments):
    return cli.main(['chat', *arguments])


NAME = 'minigpt-4_nano_caption'
DESCRIBE = 'Describe this image in detail.'
HOW_MANY = 'How many shapes are there?'


@pytest.fixture(scope='module')
def model():
    return minigpt4.get_model(NAME, device='cpu').eval()


@pytest.fixture(scope='module')
def scene():
    return sample_scene(random.Random(8), held_out=True)


@pytest.fixture
def picture(scene, tmp_path, monkeypatch):
    """A picture with a blank in its name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'my scene.png'
    render(scene, random.Random(8)).save(path)
    return path


@pytest.fixture(autouse=True)
def loaded(model, monkeypatch):
    monkeypatch.setattr(talk, 'load_model', lambda *args: model)


@pytest.fixture
def piped(monkeypatch):
    """Function of lines to a chat that reads them from a pipe."""

    def run(lines, *arguments):
        monkeypatch.setattr('sys.stdin', io.StringIO('\n'.join(lines)))
        return main(list(arguments))

    return run


def number_of(scene) -> str:
    return {1: 'one', 2: 'two', 3: 'three'}[len(scene.things)]


# scripts


def test_a_script_gets_the_answers_alone(picture, scene, capsys):
    arguments = ['--image', 'my scene.png', '--ask', DESCRIBE]
    assert main([*arguments, '--ask', HOW_MANY]) == 0
    described, counted = capsys.readouterr().out.splitlines()
    assert described == grammar.description(scene)
    assert number_of(scene) in counted


def test_json_counts_what_a_follow_up_costs(picture, capsys):
    arguments = ['--image', 'my scene.png', '--json']
    assert main([*arguments, '--ask', DESCRIBE, '--ask', HOW_MANY]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first['question'] == DESCRIBE and first['answer']
    assert first['finish_reason'] == 'stop' and first['reused_tokens'] == 0
    # the prompt of before and its answer, but for a token or two of its end
    assert (
        second['reused_tokens'] >= first['prompt_tokens'] + first['tokens'] - 2
    )
    assert second['prompt_tokens'] - second['reused_tokens'] < 30


def test_questions_and_commands_from_a_pipe(picture, scene, piped, capsys):
    lines = ['"my scene.png"', '', DESCRIBE, f'  {HOW_MANY}', '/reset']
    assert piped([*lines, 'Who are you?', '/quit', 'never asked']) == 0
    out, err = capsys.readouterr()
    answers = out.splitlines()
    assert len(answers) == 3
    assert answers[0] == grammar.description(scene)
    assert err.splitlines() == [
        'picture 1: my scene.png (64x64)',
        'a new conversation',
    ]


def test_a_script_ends_at_its_first_error(picture, piped, capsys):
    lines = ['/image nowhere.png', HOW_MANY]
    assert piped(lines) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err == (
        'error: nowhere.png does not exist; give the path of an image.\n'
    )


def test_history_goes_on_in_another_run(
    picture, scene, tmp_path, piped, capsys
):
    saved = tmp_path / 'chat.json'
    first = ['--image', 'my scene.png', '--ask', DESCRIBE]
    assert main([*first, '--save', str(saved)]) == 0
    assert piped([f'/load {saved}', '/regenerate', HOW_MANY]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == grammar.description(scene)
    assert number_of(scene) in out.splitlines()[2]
    assert f'you: [picture] {DESCRIBE}\n' in err
    assert 'loaded: 1 turns, 1 pictures' in err
    picture.unlink()
    assert main(['--load', str(saved), '--ask', HOW_MANY]) == 1
    assert 'my scene.png does not exist' in capsys.readouterr().err


def test_settings_reach_the_model(picture, capsys):
    arguments = ['--image', 'my scene.png', '--ask', DESCRIBE]
    assert main([*arguments, '--max-new-tokens', '3', '--json']) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)['tokens'] == 3
    assert json.loads(line)['finish_reason'] == 'length'
    sampled = ['--temperature', '5', '--seed', '3', '--ask', DESCRIBE]
    answers = set()
    for _ in range(2):
        assert main(sampled) == 0
        answers.add(capsys.readouterr().out)
    assert len(answers) == 1
    assert main(['--ask', DESCRIBE]) == 0
    assert capsys.readouterr().out not in answers


def test_a_full_context_is_told(picture, piped, capsys):
    lines = ['"my scene.png"', *[DESCRIBE] * 3]
    assert piped(lines[:2], '--json') == 0
    first = json.loads(capsys.readouterr().out)['prompt_tokens']
    context = str(first + 80 + 10)
    assert piped(lines, '--max-context', context) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err.count(f'the context is full ({context} tokens)') == 2
    assert 'their images kept' in err
    assert piped(lines, '--max-context', context, '--json') == 0
    notices = [
        json.loads(line)['notice']
        for line in capsys.readouterr().out.splitlines()
    ]
    assert notices[0] is None and 'context is full' in notices[1]
    assert piped([DESCRIBE], '--max-context', '50') == 1
    assert 'but the context holds 50' in capsys.readouterr().err


@pytest.mark.parametrize(
    'lines, message',
    [
        (['/imge x.png'], 'there is no command /imge'),
        (['/image'], '/image needs a path'),
        (['/regenerate'], 'nothing was asked yet'),
        (['/settings colour=3'], "there is no setting 'colour'"),
        (['/settings top_q=3'], 'did you mean top_p?'),
        (['/settings top_k=many'], "top_k is 'many'; expected a whole number"),
        (['/settings temperature'], 'write it as name=value'),
        (['/settings temperature=-1'], 'temperature is -1.0; expected above'),
        (['/save'], '/save needs one file, not 0'),
        (['/save a b'], '/save needs one file, not 2'),
        (['/save "my scene.png"'], 'exists and is no saved chat'),
        (['/load gone.json'], 'gone.json does not exist'),
        (['/load "my scene.png"'], 'is no saved chat'),
        (['/image text.png'], 'text.png cannot be read as an image'),
        (['/image folder'], 'folder is a folder; expected a regular file'),
        (['./gone.png'], 'gone.png does not exist'),
        (['/nowhere/gone.png'], '/nowhere/gone.png does not exist'),
        (['<ImageHere> what?'], '1 image slots in the question but 0 images'),
        (['http://127.0.0.1:9/a.png'], 'cannot be fetched'),
        (['/image ftp://host/a.png'], 'ftp://host/a.png does not exist'),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    picture, piped, capsys, lines, message
):
    Path('text.png').write_text('no picture')
    Path('folder').mkdir()
    before = picture.read_bytes()
    assert piped(lines) == 1
    out, err = capsys.readouterr()
    assert not out
    assert message in err and err.count('\n') == 1
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--model', 'nano'], 'there is no model and no config'),
        (['--max-context', '0'], 'expected above 0'),
        (['--top-p', '2'], 'top_p is 2.0; expected above 0, up to 1'),
        (['--top-p', 'high'], 'invalid float value'),
    ],
)
def test_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_failure_while_answering_is_one_sentence(
    picture, model, monkeypatch, capsys
):
    def broken(*args):
        raise RuntimeError('CUDA out of memory.\nTried to allocate ...')

    monkeypatch.setattr(model.neck, 'forward', broken)
    assert main(['--image', 'my scene.png', '--ask', DESCRIBE]) == 1
    err = capsys.readouterr().err
    assert 'error: RuntimeError: CUDA out of memory. (not an expec' in err
    assert 'Traceback' not in err
    assert err.count('\n') == 2  # and that the picture was read


# pictures


@pytest.fixture
def web(picture):
    """A server on this machine, as a user may have one."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_a_picture_by_its_address(
    picture, scene, web, piped, capsys, monkeypatch, tmp_path
):
    pytest.importorskip('httpcore')
    lines = [f'{web}/my%20scene.png {DESCRIBE}', '/save chat.json']
    assert piped(lines) == 0
    assert capsys.readouterr().out.strip() == grammar.description(scene)
    saved = json.loads((tmp_path / 'chat.json').read_text())
    assert saved['images'][0].startswith('data:image/png;base64,')
    assert piped([f'/image {web}/gone.png']) == 1
    err = capsys.readouterr().err
    assert 'answered with status 404' in err and 'data URL' not in err
    monkeypatch.setattr(commands, 'MAX_BYTES', 100)
    assert piped([f'/image {web}/my%20scene.png']) == 1
    assert 'at most 100 are allowed' in capsys.readouterr().err


@pytest.mark.parametrize(
    'line, images, question',
    [
        ("'{p}'", 1, ''),
        ('"{p}"', 1, ''),
        ('{e}', 1, ''),
        ('{u}', 1, ''),
        ("'{p}' What's in it?", 1, "What's in it?"),
        ("What's in {e}", 1, "What's in"),
        ('{e} {u} Compare  them.', 2, 'Compare  them.'),
        ("Isn't it 'nice'?", 0, "Isn't it 'nice'?"),
        ('What is scene.png?', 0, 'What is scene.png?'),
        ('See https://a.org/b.html please', 0, None),
        ('https://a.org/b?size=2 Describe.', 1, 'Describe.'),
        ('Is https://a.org/b.JPG?size=2 red?', 1, 'Is red?'),
    ],
)
def test_pictures_in_a_line(picture, line, images, question):
    line = line.format(
        p=picture,
        e=str(picture).replace(' ', '\\ '),
        u=picture.as_uri(),
    )
    found, left = split_line(line)
    assert len(found) == images
    assert ' '.join(left.split()) == ' '.join(
        (line if question is None else question).split()
    )
    for path in found:
        assert path == str(picture) or path.startswith('https://')


def test_words_of_a_command(picture, monkeypatch):
    monkeypatch.setenv('HOME', str(picture.parent))
    assert words_of('a\\ b.png "c d.png" \'e f.png\' ~/g.png') == [
        'a b.png',
        'c d.png',
        'e f.png',
        f'{picture.parent}/g.png',
    ]


def test_several_pictures_at_several_turns(picture, model, piped, capsys):
    shutil.copy(picture, 'b.png')
    lines = ['b.png', '"my scene.png" Compare.', '/image b.png', 'And now?']
    assert piped([*lines, '/save chat.json']) == 0
    assert 'picture 2: my scene.png' in capsys.readouterr().err
    session = ChatSession.load('chat.json', model)
    assert [Path(i).name for i in session.images] == [
        'b.png',
        'my scene.png',
        'b.png',
    ]
    assert [t.question.count('<ImageHere>') for t in session.turns] == [2, 1]


# rendering


def screen(pieces, show=show_markdown):
    """What is left on a screen after an answer, without its codes."""
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        color_system=None,
        width=60,
        height=10,
        _environ={'TERM': 'xterm'},
    )
    said = show(pieces, console)
    # what stands before the last erasure of a line is gone
    text = re.sub(r'\x1b\[\??\d*[hlABm]', '', out.getvalue())
    return said, [line.rpartition('\x1b[2K')[2] for line in text.split('\n')]


def letters(text):
    return [text[i : i + 3] for i in range(0, len(text), 3)]


def test_markdown_loses_nothing():
    poem = 'O star, so <b>bright</b>,\nO cross with **light**.\n\nThe end.'
    said, lines = screen(letters(poem))
    assert said == poem
    shown = [line.strip() for line in lines if line.strip()]
    assert shown[-3:] == [
        'O star, so <b>bright</b>,',
        'O cross with light.',
        'The end.',
    ]


def test_code_is_left_alone():
    code = '```html\n<html>\n\n<p>\n```\n\nDone.'
    assert block_end(code[:20]) == 0
    assert block_end(code) == len(code) - len('Done.')
    _, lines = screen(letters(code))
    assert {'<html>', '<p>', 'Done.'} <= {line.strip() for line in lines}


def test_tables_are_drawn():
    _, lines = screen(letters('| a | b |\n|---|---|\n| one | two |'))
    assert any(line.split() == ['one', 'two'] for line in lines)


def test_a_terminal_is_not_obeyed_by_an_answer():
    said, lines = screen(['a\x1b[2Jb\x07', '\tc\n'], show_plain)
    assert said == 'a\x1b[2Jb\x07\tc\n'
    assert lines[0] == 'a[2Jb\tc'
    _, lines = screen(['a\x1b]0;title\x07b'])
    assert any(line.startswith('a]0;titleb') for line in lines)


# typed

SLOWLY = """
import sys, time
from minigpt4.generation.engine import Engine
step = Engine.step
def slowly(self):
    time.sleep(0.03)
    return step(self)
Engine.step = slowly
from minigpt4_cli.main import main
sys.exit(main(['chat', *sys.argv[1:]]))
"""
PROMPT = r'you( \[\d pictures?\])?> '


class Terminal(io.StringIO):
    """What is typed at or shown by a terminal."""

    def isatty(self):
        return True


class Typist:
    """Somebody at a pseudo-terminal."""

    def __init__(self, folder, *arguments):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update(TERM='xterm', XDG_STATE_HOME=str(folder))
            command = [sys.executable, '-c', SLOWLY, *arguments]
            os.execv(sys.executable, command)
        self.seen = ''

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def until(self, pattern, seconds=120):
        """What appears up to a pattern, without colours."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f'{pattern} not in {self.seen!r}'
            if select.select([self.fd], [], [], 0.1)[0]:
                data = os.read(self.fd, 65536).decode(errors='replace')
                self.seen += re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', data)
        shown = self.seen[: match.end()]
        self.seen = self.seen[match.end() :]
        return shown

    def ask(self, line):
        """Type a line; what appears until the next prompt."""
        self.type(line + '\r')
        return self.until(PROMPT)

    def status(self):
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def test_ctrl_c_ends_the_answer_not_the_chat(
    picture, model, monkeypatch, capsys
):
    """And a second one during the same answer ends the program."""
    lines = iter([f'"{picture}" {DESCRIBE}', HOW_MANY, DESCRIBE])
    steps, presses = [], {5: 1, 20: 2}
    step = Engine.step

    def spy(self):
        steps.append(self)
        for _ in range(presses.get(len(steps), 0)):
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Engine, 'step', spy)
    monkeypatch.setattr(talk, '_read', lambda pending: next(lines))
    monkeypatch.setattr('sys.stdin', Terminal())
    monkeypatch.setattr('sys.stdout', Terminal())
    monkeypatch.setattr(talk, '_history', contextlib.nullcontext)
    before = signal.getsignal(signal.SIGINT)
    assert main(['--plain']) == 130
    assert signal.getsignal(signal.SIGINT) is before
    shown = sys.stdout.getvalue()
    assert 'The image' in shown and 'stopped' in shown
    assert 'There ' in shown, 'the chat did not go on'
    assert len(steps) == 20


def test_ctrl_c_gives_up_reading_a_picture(
    picture, model, monkeypatch, capsys
):
    lines = iter(['"my scene.png"', HOW_MANY, '/quit'])

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(commands, 'read_image', interrupted)
    monkeypatch.setattr(talk, '_read', lambda pending: next(lines))
    monkeypatch.setattr('sys.stdin', Terminal())
    monkeypatch.setattr('sys.stdout', Terminal())
    monkeypatch.setattr(talk, '_history', contextlib.nullcontext)
    assert main(['--plain']) == 0
    shown = sys.stdout.getvalue()
    assert 'stopped' in shown and 'There ' in shown


@pytest.mark.slow
def test_a_conversation_that_is_typed(picture, scene, tmp_path):
    truth = grammar.description(scene)
    start, end = truth[:15], truth[-12:]
    typist = Typist(tmp_path / 'state')
    assert '/help lists the commands' in typist.until(PROMPT)
    # dragged in, quoted
    assert '(64x64)' in typist.ask(f"'{picture}'")
    # streamed: the beginning is there while the end is not
    typist.type(DESCRIBE + '\r')
    typist.until(re.escape(start))
    assert end not in typist.seen
    assert end in typist.until(PROMPT)
    # Ctrl-C ends the answer, not the chat
    typist.type(DESCRIBE + '\r')
    typist.until(re.escape(start))
    typist.type('\x03')
    stopped = typist.until(PROMPT)
    assert 'stopped' in stopped and end not in stopped
    # with escaped blanks, and a question
    escaped = str(picture).replace(' ', '\\ ')
    assert number_of(scene) in typist.ask(f'{escaped} {HOW_MANY}')
    again = typist.ask('/regenerate')
    assert number_of(scene) in again and 'answer stays the same' in again
    assert 'cut at 2 tokens' in typist.ask('/regenerate max_new_tokens=2')
    assert 'there is no command /foo' in typist.ask('/foo')
    assert 'does not exist' in typist.ask('/image nowhere.png')
    # Ctrl-C at the prompt throws the line away
    typist.type('never asked')
    # a signal before readline waits is seen with the next key alone
    typist.until('never asked')
    typist.type('\x03')
    assert '/quit or Ctrl-D leaves' in typist.until(PROMPT)
    assert 'a new conversation' in typist.ask('/reset')
    assert '(64x64)' in typist.ask(picture.as_uri())
    assert number_of(scene) in typist.ask('How many shapes \\\rare there?')
    assert 'saved: ' in typist.ask('/save chat.json')
    saved = json.loads((tmp_path / 'chat.json').read_text())
    assert len(saved['turns']) == 1 and saved['images'] == [str(picture)]
    # the arrow key brings earlier lines back
    assert 'saved: ' in typist.ask('\x1b[A')
    typist.type('\x04')
    assert typist.status() == 0
    history = (tmp_path / 'state/minigpt4/chat_history').read_text()
    assert history.splitlines()[:2] == [f"'{picture}'", DESCRIBE]


def test_ctrl_c_ends_a_script(picture, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, 'step', interrupted)
    assert main(['--ask', DESCRIBE]) == 130
    assert 'Traceback' not in capsys.readouterr().err


# stopping, and what users have


@pytest.fixture
def stopped_at(monkeypatch):
    """Function of a signal that comes while the second answer is written."""

    def arrange(signum):
        asked, sent = [], []
        submit, step = Engine.submit, Engine.step

        def spy(self, *args, **settings):
            asked.append(args)
            return submit(self, *args, **settings)

        def interrupted(self):
            if len(asked) == 2 and not sent:
                sent.append(signum)
                os.kill(os.getpid(), signum)
            return step(self)

        monkeypatch.setattr(Engine, 'submit', spy)
        monkeypatch.setattr(Engine, 'step', interrupted)

    return arrange


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_script_keeps_what_was_answered(
    picture, stopped_at, capsys, signum
):
    stopped_at(signum)
    before = [signal.getsignal(n) for n in (signal.SIGINT, signum)]
    arguments = ['--ask', HOW_MANY, '--ask', DESCRIBE, '--save', 'chat.json']
    assert main(['--image', 'my scene.png', *arguments]) == 128 + signum
    err = capsys.readouterr().err
    assert f'stopped by {signal.Signals(signum).name}' in err
    assert 'Traceback' not in err
    turns = json.loads(Path('chat.json').read_text())['turns']
    assert turns[0]['answer'].startswith('There ')
    assert [signal.getsignal(n) for n in (signal.SIGINT, signum)] == before


def test_an_error_keeps_what_was_answered(picture, piped):
    lines = ['"my scene.png"', HOW_MANY, '/image gone.png']
    assert piped(lines, '--save', 'chat.json') == 1
    assert len(json.loads(Path('chat.json').read_text())['turns']) == 1


def test_names_control_no_terminal(picture, scene, piped, capsys):
    name = 'a\x1b[31m\u202eb\nc.png'
    shutil.copy('my scene.png', name)
    assert main(['--image', name, '--ask', HOW_MANY]) == 0
    assert main(['--image', 'no\x1b]0;x\x07.png', '--ask', HOW_MANY]) == 1
    err = capsys.readouterr().err
    assert not {'\x1b', '\x07', '\u202e'} & {*err}
    assert r'a\x1b[31m\u202eb\nc.png' in err and err.count('\n') == 2


@pytest.mark.parametrize('option', ['--image', '--load'])
def test_what_would_block_is_refused(picture, capsys, option):
    os.mkfifo('fifo.png')
    assert main([option, 'fifo.png', '--ask', HOW_MANY]) == 1
    assert 'fifo.png is a FIFO' in capsys.readouterr().err


def test_a_question_with_half_a_character_is_refused(picture, capsys):
    assert main(['--ask', 'cut \udcff here']) == 1
    err = capsys.readouterr().err
    assert 'not UTF-8' in err and err.count('\n') == 1


def test_the_traceback_is_shown_on_request(picture, capsys):
    arguments = ['--image', 'gone.png', '--ask', HOW_MANY]
    assert main(arguments) == 1
    assert 'Traceback' not in capsys.readouterr().err
    assert main([*arguments, '--debug']) == 1
    err = capsys.readouterr().err
    assert 'Traceback' in err and 'error: gone.png does not exist' in err
