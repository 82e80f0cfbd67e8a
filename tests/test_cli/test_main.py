# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The command ``minigpt4``: its verbs, their options and their errors."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt4.generation.parse_settings import PARSERS
from minigpt4.serving.http.connections import ConnectionLimits
from minigpt4_cli import caption, compare, convert, options, serve
from minigpt4_cli import main as cli

PROJECTS = Path(cli.__file__).resolve().parents[1]
NO_TORCH = """
import sys
sys.modules['torch'] = sys.modules['mmengine'] = None
from minigpt4_cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
assert 'minigpt4' not in sys.modules
sys.exit(status)
"""


@pytest.mark.parametrize(
    'arguments',
    [['--help'], ['--version'], *([verb, '--help'] for verb in cli.VERBS)],
    ids=' '.join,
)
def test_help_needs_neither_torch_nor_the_package(arguments):
    done = subprocess.run(
        [sys.executable, '-c', NO_TORCH, *arguments],
        env=os.environ | {'PYTHONPATH': str(PROJECTS)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'minigpt4' in done.stdout


@pytest.mark.parametrize('verb', cli.VERBS)
def test_help_texts_have_no_format_characters(monkeypatch, capsys, verb):
    """argparse formats the help of options, and not that of groups."""
    parsers = []
    make = argparse.ArgumentParser.__init__

    def make_and_keep(self, *args, **kwargs):
        make(self, *args, **kwargs)
        parsers.append(self)

    monkeypatch.setattr(argparse.ArgumentParser, '__init__', make_and_keep)
    with pytest.raises(SystemExit):
        cli.main([verb, '--help'])
    shown = capsys.readouterr().out
    texts = [parser.format_help() for parser in parsers]
    assert shown in texts
    for text in texts:
        assert text.startswith('usage: minigpt4')
        assert '%%' not in text and '%(' not in text


def test_unknown_verb_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(['docter'])
    assert stop.value.code == 2
    assert 'doctor' in capsys.readouterr().err


def test_no_verb_prints_help(capsys):
    assert cli.main([]) == 2
    assert 'doctor' in capsys.readouterr().out


def test_every_verb_has_its_module():
    for verb, help_ in cli.VERBS.items():
        name = verb.replace('-', '_')
        module = importlib.import_module(f'minigpt4_cli.{name}')
        assert callable(module.add_arguments) and callable(module.run)
        assert help_


def test_verb_gets_its_own_arguments(monkeypatch):
    given = []
    monkeypatch.setattr('minigpt4_cli.doctor.run', given.append)
    assert cli.main(['doctor', '--json']) == 0
    assert given[0].json


def test_package_that_cannot_be_imported_points_to_doctor(tmp_path):
    (tmp_path / 'minigpt4').mkdir()
    (tmp_path / 'minigpt4/__init__.py').write_text(
        "raise OSError('libtorch_cpu.so: undefined symbol')"
    )

    def run(*arguments):
        return subprocess.run(
            [sys.executable, '-m', 'minigpt4_cli.main', 'chat', *arguments],
            env=os.environ
            | {'PYTHONPATH': os.pathsep.join([str(tmp_path), str(PROJECTS)])},
            capture_output=True,
            text=True,
            timeout=300,
        )

    done = run()
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    assert 'undefined symbol' in done.stderr
    assert 'minigpt4 doctor' in done.stderr
    assert 'Traceback' in run('--debug').stderr


def test_wrong_usage_has_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(['chat', '--max-context', '0'])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert 'usage: minigpt4 chat' in error and '--max-context is 0' in error


def test_lists_of_the_command_line_are_those_of_the_package():
    """They are written twice because --help must not import the package."""
    from minigpt4.captioning.exports import SUFFIXES
    from minigpt4.convert.convert_files import FILES
    from minigpt4.evaluation.paired import RESAMPLES
    from minigpt4.serving.http.serve import KEY_VARIABLE

    assert caption.SUFFIXES == SUFFIXES
    assert convert.FOLDER_FILES == tuple(FILES.values())
    assert serve.KEY_VARIABLE == KEY_VARIABLE
    assert options.SETTINGS.keys() == PARSERS.keys()
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    assert parser.parse_args(['a', 'b']).resamples == RESAMPLES
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    args = parser.parse_args([])
    assert ConnectionLimits() == ConnectionLimits(
        total=args.max_connections,
        per_client=args.max_client_connections,
        header_seconds=args.header_seconds,
        idle_seconds=args.idle_seconds,
        body_seconds=args.body_seconds,
        send_seconds=args.send_seconds,
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['caption', 'a.png', '-o', 'a.csv', '--slots', 'x'], 'x is not a'),
        (['serve', '--port', 'abc'], 'abc is not from 0 to 65535'),
        (['serve', '--header-seconds', 'nan'], 'nan is not a number above 0'),
    ],
)
def test_invalid_numbers_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
