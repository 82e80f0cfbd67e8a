# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 chat`` from scripts: answers, commands, errors, signals."""

import http.server
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from minigpt4.chat.session import ChatSession
from minigpt4.generation.engine import Engine
from minigpt4.nano import grammar
from minigpt4.terminal import typed_images
from minigpt4_cli import main as cli

DESCRIBE = 'Describe this image in detail.'
HOW_MANY = 'How many shapes are there?'


def main(arguments):
    return cli.main(['chat', *arguments])


# scripts


def test_scripts_receive_only_the_answers(image, scene, number_word, capsys):
    arguments = ['--image', 'my scene.png', '--ask', DESCRIBE]
    assert main([*arguments, '--ask', HOW_MANY]) == 0
    described, counted = capsys.readouterr().out.splitlines()
    assert described == grammar.description(scene)
    assert number_word in counted


def test_json_reports_reused_tokens(image, capsys):
    arguments = ['--image', 'my scene.png', '--json']
    assert main([*arguments, '--ask', DESCRIBE, '--ask', HOW_MANY]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first['question'] == DESCRIBE and first['answer']
    assert first['finish_reason'] == 'stop' and first['reused_tokens'] == 0
    # the previous prompt and answer, except the last one or two tokens
    assert (
        second['reused_tokens'] >= first['prompt_tokens'] + first['tokens'] - 2
    )
    assert second['prompt_tokens'] - second['reused_tokens'] < 30


def test_pipes_provide_questions_and_commands(image, scene, run_piped, capsys):
    lines = ['"my scene.png"', '', DESCRIBE, f'  {HOW_MANY}', '/reset']
    assert run_piped([*lines, 'Who are you?', '/quit', 'never asked']) == 0
    out, err = capsys.readouterr()
    answers = out.splitlines()
    assert len(answers) == 3
    assert answers[0] == grammar.description(scene)
    assert err.splitlines() == [
        'image 1: my scene.png (64x64)',
        'a new conversation',
    ]


def test_scripts_end_at_the_first_error(image, run_piped, capsys):
    lines = ['/image nowhere.png', HOW_MANY]
    assert run_piped(lines) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err == (
        'error: nowhere.png does not exist; give the path of an image.\n'
    )


def test_saved_conversation_continues_in_another_run(
    image, scene, number_word, tmp_path, run_piped, capsys
):
    saved = tmp_path / 'chat.json'
    first = ['--image', 'my scene.png', '--ask', DESCRIBE]
    assert main([*first, '--save', str(saved)]) == 0
    assert run_piped([f'/load {saved}', '/regenerate', HOW_MANY]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == grammar.description(scene)
    assert number_word in out.splitlines()[2]
    assert f'you: [image] {DESCRIBE}\n' in err
    assert 'loaded: 1 turns, 1 images' in err
    image.unlink()
    assert main(['--load', str(saved), '--ask', HOW_MANY]) == 1
    assert 'my scene.png does not exist' in capsys.readouterr().err


def test_generation_settings_are_used(image, capsys):
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


def test_full_context_is_reported(image, run_piped, capsys):
    lines = ['"my scene.png"', *[DESCRIBE] * 3]
    assert run_piped(lines[:2], '--json') == 0
    first = json.loads(capsys.readouterr().out)['prompt_tokens']
    context = str(first + 80 + 10)
    assert run_piped(lines, '--max-context', context) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err.count(f'the context is full ({context} tokens)') == 2
    assert 'their images kept' in err
    assert run_piped(lines, '--max-context', context, '--json') == 0
    notices = [
        json.loads(line)['notice']
        for line in capsys.readouterr().out.splitlines()
    ]
    assert notices[0] is None and 'context is full' in notices[1]
    assert run_piped([DESCRIBE], '--max-context', '50') == 1
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
        (['/save "my scene.png"'], 'exists and is not a saved chat'),
        (['/load gone.json'], 'gone.json does not exist'),
        (['/load "my scene.png"'], 'is not a saved chat'),
        (['/image text.png'], 'text.png cannot be read as an image'),
        (['/image folder'], 'folder is a folder; expected a regular file'),
        (['./gone.png'], 'gone.png does not exist'),
        (['/nowhere/gone.png'], '/nowhere/gone.png does not exist'),
        (['<ImageHere> what?'], '1 image slots in the question but 0 images'),
        (['http://127.0.0.1:9/a.png'], 'cannot be fetched'),
        (['/image ftp://host/a.png'], 'ftp://host/a.png does not exist'),
    ],
)
def test_invalid_lines_are_one_sentence(
    image, run_piped, capsys, lines, message
):
    Path('text.png').write_text('no image')
    Path('folder').mkdir()
    before = image.read_bytes()
    assert run_piped(lines) == 1
    out, err = capsys.readouterr()
    assert not out
    assert message in err and err.count('\n') == 1
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--model', 'nano'], 'there is no model'),
        (['--max-context', '0'], 'expected above 0'),
        (['--top-p', '2'], 'top_p is 2.0; expected above 0, up to 1'),
        (['--top-p', 'high'], 'invalid float value'),
    ],
)
def test_invalid_arguments_exit_with_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_failed_answer_is_one_sentence(image, model, monkeypatch, capsys):
    def broken(*args):
        raise RuntimeError('CUDA out of memory.\nTried to allocate ...')

    monkeypatch.setattr(model.neck, 'forward', broken)
    assert main(['--image', 'my scene.png', '--ask', DESCRIBE]) == 1
    err = capsys.readouterr().err
    assert 'error: RuntimeError: CUDA out of memory. (not an expec' in err
    assert 'Traceback' not in err
    assert err.count('\n') == 2  # the other line is the note about the image


def test_ctrl_c_ends_a_script(image, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, 'step', interrupted)
    assert main(['--ask', DESCRIBE]) == 130
    assert 'Traceback' not in capsys.readouterr().err


# images


@pytest.fixture
def web(image):
    """An HTTP server on this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_image_from_a_web_address(
    image, scene, web, run_piped, capsys, monkeypatch, tmp_path
):
    pytest.importorskip('httpcore')
    lines = [f'{web}/my%20scene.png {DESCRIBE}', '/save chat.json']
    assert run_piped(lines) == 0
    assert capsys.readouterr().out.strip() == grammar.description(scene)
    saved = json.loads((tmp_path / 'chat.json').read_text())
    assert saved['images'][0].startswith('data:image/png;base64,')
    assert run_piped([f'/image {web}/gone.png']) == 1
    err = capsys.readouterr().err
    assert 'answered with status 404' in err and 'data URL' not in err
    monkeypatch.setattr(typed_images, 'MAX_BYTES', 100)
    assert run_piped([f'/image {web}/my%20scene.png']) == 1
    assert 'at most 100 are allowed' in capsys.readouterr().err


def test_several_images_in_several_turns(image, model, run_piped, capsys):
    shutil.copy(image, 'b.png')
    lines = ['b.png', '"my scene.png" Compare.', '/image b.png', 'And now?']
    assert run_piped([*lines, '/save chat.json']) == 0
    assert 'image 2: my scene.png' in capsys.readouterr().err
    session = ChatSession.load('chat.json', model)
    assert [Path(i).name for i in session.images] == [
        'b.png',
        'my scene.png',
        'b.png',
    ]
    assert [t.question.count('<ImageHere>') for t in session.turns] == [2, 1]


# signals and untrusted names


@pytest.fixture
def stopped_at(monkeypatch):
    """Function that sends a signal during the second answer."""

    def arrange(signum):
        submitted, sent = [], []
        submit, step = Engine.submit, Engine.step

        def spy(self, *args, **settings):
            submitted.append(args)
            return submit(self, *args, **settings)

        def interrupted(self):
            if len(submitted) == 2 and not sent:
                sent.append(signum)
                os.kill(os.getpid(), signum)
            return step(self)

        monkeypatch.setattr(Engine, 'submit', spy)
        monkeypatch.setattr(Engine, 'step', interrupted)

    return arrange


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGHUP])
def test_stopped_script_saves_the_complete_answers(
    image, stopped_at, capsys, signum
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


def test_failed_script_saves_the_complete_answers(image, run_piped):
    lines = ['"my scene.png"', HOW_MANY, '/image gone.png']
    assert run_piped(lines, '--save', 'chat.json') == 1
    assert len(json.loads(Path('chat.json').read_text())['turns']) == 1


def test_file_names_are_escaped(image, scene, run_piped, capsys):
    name = 'a\x1b[31m\u202eb\nc.png'
    shutil.copy('my scene.png', name)
    assert main(['--image', name, '--ask', HOW_MANY]) == 0
    assert main(['--image', 'no\x1b]0;x\x07.png', '--ask', HOW_MANY]) == 1
    err = capsys.readouterr().err
    assert not {'\x1b', '\x07', '\u202e'} & {*err}
    assert r'a\x1b[31m\u202eb\nc.png' in err and err.count('\n') == 2


@pytest.mark.parametrize('option', ['--image', '--load'])
def test_fifos_are_refused(image, capsys, option):
    os.mkfifo('fifo.png')
    assert main([option, 'fifo.png', '--ask', HOW_MANY]) == 1
    assert 'fifo.png is a FIFO' in capsys.readouterr().err


def test_question_that_is_not_utf8_is_refused(image, capsys):
    assert main(['--ask', 'cut \udcff here']) == 1
    err = capsys.readouterr().err
    assert 'not UTF-8' in err and err.count('\n') == 1


def test_debug_shows_the_traceback(image, capsys):
    arguments = ['--image', 'gone.png', '--ask', HOW_MANY]
    assert main(arguments) == 1
    assert 'Traceback' not in capsys.readouterr().err
    assert main([*arguments, '--debug']) == 1
    err = capsys.readouterr().err
    assert 'Traceback' in err and 'error: gone.png does not exist' in err
