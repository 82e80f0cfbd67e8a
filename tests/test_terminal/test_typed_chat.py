# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A chat that is typed at a terminal."""

import io
import json
import os
import pty
import re
import select
import signal
import sys
import time
import traceback

import pytest

from minigpt4.generation.engine import Engine
from minigpt4.generation.request import GenerationRequest
from minigpt4.nano import grammar
from minigpt4.terminal import commands
from minigpt4_cli import main as cli

DESCRIBE = 'Describe this image in detail.'
HOW_MANY = 'How many shapes are there?'


def main(arguments):
    return cli.main(['chat', *arguments])


PROMPT = r'you( \[\d images?\])?> '


class Terminal(io.StringIO):
    """An output that says it is a terminal."""

    def isatty(self):
        return True


def run_chat_in_child(folder, arguments):
    """Run a chat; returns the exit status.

    While the file ``held`` exists in the folder, an answer gets one token each
    second after the first twelve, unless it is cancelled. The display is not
    drawn for each token, so an answer that stood still might not be drawn.
    """
    try:
        os.environ.update(TERM='xterm', XDG_STATE_HOME=str(folder))
        sys.stdin, sys.stdout, sys.stderr = (
            open(0), open(1, 'w'), open(2, 'w')
        )  # fmt: skip
        append = GenerationRequest.append_token

        def held_append(self, *args):
            append(self, *args)
            end = time.monotonic() + 1
            while len(self.token_ids) >= 12 and not self.cancelled:
                if not (folder / 'held').exists() or time.monotonic() > end:
                    return
                time.sleep(0.02)

        GenerationRequest.append_token = held_append
        return main(list(arguments))
    except BaseException:
        traceback.print_exc()
        return 99


class Typist:
    """A user at a pseudo-terminal."""

    def __init__(self, folder, *arguments):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os._exit(run_chat_in_child(folder, arguments))
        self.seen = ''

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def until(self, pattern, seconds=120):
        """The output up to a pattern, without colours."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f'{pattern} not in {self.seen!r}'
            if select.select([self.fd], [], [], 0.1)[0]:
                data = os.read(self.fd, 65536).decode(errors='replace')
                self.seen += re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', data)
        output = self.seen[: match.end()]
        self.seen = self.seen[match.end() :]
        return output

    def ask(self, line):
        """Type a line; returns the output up to the next prompt."""
        self.type(line + '\r')
        return self.until(PROMPT)

    def wait(self):
        """Wait for the end; returns the exit status."""
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def type_lines(monkeypatch, tmp_path):
    """Function of typed lines to the exit status and output of a chat."""

    def run(*lines):
        remaining = iter(lines)
        terminal = Terminal()
        monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'state'))
        monkeypatch.setattr('builtins.input', lambda prompt: next(remaining))
        monkeypatch.setattr('sys.stdin', Terminal())
        monkeypatch.setattr('sys.stdout', terminal)
        return main(['--plain']), terminal.getvalue()

    return run


def test_ctrl_c_cancels_the_answer_and_twice_ends_the_chat(
    image, type_lines, monkeypatch
):
    steps, presses = [], {5: 1, 20: 2}
    step = Engine.step

    def spy(self):
        steps.append(self)
        for _ in range(presses.get(len(steps), 0)):
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Engine, 'step', spy)
    before = signal.getsignal(signal.SIGINT)
    status, output = type_lines(f'"{image}" {DESCRIBE}', HOW_MANY, DESCRIBE)
    assert status == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert 'The image' in output and 'stopped' in output
    assert 'There ' in output, 'the chat did not continue'
    assert len(steps) == 20


def test_ctrl_c_aborts_reading_an_image(image, type_lines, monkeypatch):
    def interrupt(*args):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(commands, 'read_image', interrupt)
    status, output = type_lines('"my scene.png"', HOW_MANY, '/quit')
    assert status == 0
    assert 'stopped' in output and 'There ' in output


def test_typed_conversation(image, scene, number_word, tmp_path):
    description = grammar.description(scene)
    start, end = description[:15], description[-12:]
    typist = Typist(tmp_path / 'state')
    assert '/help lists the commands' in typist.until(PROMPT)
    # dragged in, quoted
    assert '(64x64)' in typist.ask(f"'{image}'")
    # streamed: the beginning is displayed before the end
    held = tmp_path / 'state' / 'held'
    held.parent.mkdir(exist_ok=True)
    held.touch()
    typist.type(DESCRIBE + '\r')
    typist.until(re.escape(start))
    assert end not in typist.seen
    held.unlink()
    assert end in typist.until(PROMPT)
    # Ctrl-C cancels the answer
    held.touch()
    typist.type(DESCRIBE + '\r')
    typist.until(re.escape(start))
    typist.type('\x03')
    stopped = typist.until(PROMPT)
    held.unlink()
    assert 'stopped' in stopped and end not in stopped
    # with escaped blanks, and a question
    escaped = str(image).replace(' ', '\\ ')
    assert number_word in typist.ask(f'{escaped} {HOW_MANY}')
    again = typist.ask('/regenerate')
    assert number_word in again and 'answer stays the same' in again
    assert 'cut at 2 tokens' in typist.ask('/regenerate max_new_tokens=2')
    assert 'there is no command /foo' in typist.ask('/foo')
    assert 'does not exist' in typist.ask('/image nowhere.png')
    # Ctrl-C at the prompt discards the line, directly after a key too
    typist.type('never asked\x03')
    assert '/quit or Ctrl-D leaves' in typist.until(PROMPT)
    assert 'a new conversation' in typist.ask('/reset')
    assert '(64x64)' in typist.ask(image.as_uri())
    assert number_word in typist.ask('How many shapes \\\rare there?')
    assert 'saved: ' in typist.ask('/save chat.json')
    saved = json.loads((tmp_path / 'chat.json').read_text())
    assert len(saved['turns']) == 1 and saved['images'] == [str(image)]
    # the arrow key recalls earlier lines
    assert 'saved: ' in typist.ask('\x1b[A')
    typist.type('\x04')
    assert typist.wait() == 0
    history = (tmp_path / 'state/minigpt4/chat_history').read_text()
    assert history.splitlines()[:2] == [f"'{image}'", DESCRIBE]


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGHUP])
def test_stop_signal_at_the_prompt_ends_the_chat(tmp_path, signum):
    typist = Typist(tmp_path / 'state', '--plain')
    typist.until(PROMPT)
    typist.type('never asked')
    os.kill(typist.pid, signum)
    assert typist.wait() == 128 + signum
