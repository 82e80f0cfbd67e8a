# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Errors of the training tools are one sentence, also in the log file."""

import errno
import os
import signal
import sys

import pytest
import torch

from minigpt4.engine import config
from minigpt4.engine.hooks import UnusableRunError
from minigpt4.engine.rank_errors import error_sentence, reports_rank_errors
from minigpt4.engine.ranks import OtherRankError, start_ranks
from minigpt4.registry import MODELS


class Failing(torch.utils.data.Dataset):
    """The first sample is an expected error, the second another one."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index == 0:
            raise ValueError('x.tar has no sample; give another one.')
        raise RuntimeError('out of luck')


def raised(function) -> Exception:
    with pytest.raises(Exception) as error:
        function()
    return error.value


def test_wrapped_errors_give_the_first_sentence(make_cfg):
    batches = iter(torch.utils.data.DataLoader(Failing(), num_workers=1))
    worker = raised(lambda: next(batches))
    assert 'Traceback' in str(worker)
    want = 'x.tar has no sample; give another one.'
    assert error_sentence(worker) == want
    message = error_sentence(raised(lambda: next(batches)))
    assert message.startswith('RuntimeError in a data worker: out of luck')
    cfg = make_cfg('stream')
    cfg.model.decoder.name_or_path = '/absent/llm'
    built = raised(lambda: MODELS.build(cfg.model))
    assert error_sentence(built).startswith("LLM '/absent/llm' does not exist")
    unknown = raised(lambda: MODELS.build(dict(type='Absent')))
    message = error_sentence(unknown)
    assert message.startswith('Absent is not in the ')
    assert message.endswith('registry; check the type in the config.')


def test_other_errors_are_sentences_too():
    full = OSError(errno.ENOSPC, 'No space left on device', 'a.pth')
    assert error_sentence(full).startswith('a.pth: No space left on device')
    assert 'free some space and resume' in error_sentence(full)
    shared = OSError(errno.ENOSPC, 'No space left on device')
    assert '/dev/shm' in error_sentence(shared)
    assert error_sentence(UnusableRunError('the loss is nan.')) == (
        'the loss is nan.'
    )
    assert 'not an expected error' in error_sentence(RuntimeError('odd'))


def run(function, monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, 'argv', ['tool.py', *arguments])
    return reports_rank_errors(function)()


def fail(error):
    def main():
        raise error

    return main


def test_errors_are_one_line_with_status_1(monkeypatch, capsys):
    assert run(fail(ValueError('a.\nb')), monkeypatch) == 1
    assert capsys.readouterr().err == 'error: a.\n'
    assert run(fail(ValueError('a.')), monkeypatch, '--debug') == 1
    printed = capsys.readouterr().err
    assert 'Traceback' in printed and printed.endswith('\nerror: a.\n')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert run(fail(ValueError('a.')), monkeypatch) == 1
    assert capsys.readouterr().err == 'error (rank 1): a.\n'
    assert run(fail(OtherRankError('a.')), monkeypatch) == 1
    assert capsys.readouterr().err == ''


def test_a_signal_before_the_training_ends_with_its_status(
    monkeypatch, capsys
):
    def main():
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert run(main, monkeypatch) == 143
    assert capsys.readouterr().err == 'stopped by SIGTERM\n'
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_error_is_in_the_log_of_the_run(
    make_cfg, written, monkeypatch, capsys
):
    cfg = make_cfg('sampler')

    def main():
        config.build_runner(cfg)
        raise ValueError('a sentence.')

    assert run(main, monkeypatch) == 1
    assert 'error: a sentence.' in written(cfg)
    assert capsys.readouterr().err.count('a sentence.') == 1


@pytest.mark.parametrize(
    'text, reason',
    [
        ('x = (', r'cannot be read at line 1: SyntaxError: .* never closed'),
        ('x = 1\ny = 1 / 0', 'at line 2: ZeroDivisionError: division by zero'),
        ('\x00', 'cannot be read'),
    ],
)
def test_a_config_that_cannot_be_read_is_named(text, reason, tmp_path):
    path = tmp_path / 'cfg.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        config.load_config(str(path))
    assert str(path) in str(error.value)


def test_what_a_training_needs_is_named(tmp_path):
    (tmp_path / 'cfg.py').write_text('max_iters = 1')
    cfg = config.load_config(str(tmp_path / 'cfg.py'))
    with pytest.raises(ValueError, match='lacks model, train_dataloader'):
        config.require_training(cfg)
    os.mkfifo(tmp_path / 'fifo.py')
    with pytest.raises(ValueError, match='is a FIFO'):
        config.load_config(str(tmp_path / 'fifo.py'))


def test_a_launcher_without_its_variables_is_refused(monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match='RANK, WORLD_SIZE.*dist_train.sh'):
        start_ranks(config.Config(), 'pytorch')
