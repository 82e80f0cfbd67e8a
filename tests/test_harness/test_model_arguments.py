# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""--model_args of a harness."""

from pathlib import Path

import pytest

from minigpt4.harness.model_arguments import DEFAULT_MODEL, read_arguments

SMALL = 'minigpt-4_small_caption'


def test_defaults():
    arguments = read_arguments()
    assert arguments.model == DEFAULT_MODEL
    assert arguments.slots == 1 and arguments.workers >= 1
    assert arguments.likelihood == 'loss' and arguments.history is False
    assert arguments.answers is arguments.checkpoint is arguments.device


def test_all_arguments():
    # lmms-eval reads numbers and True as such
    arguments = read_arguments(
        batch_size='4',
        device='cuda:1',
        model=SMALL,
        checkpoint='a.pth',
        workers=2,
        answers='folder',
        likelihood='log_likelihood',
        history=True,
    )
    assert arguments.slots == 4 and arguments.workers == 2
    assert arguments.model == SMALL and arguments.checkpoint == 'a.pth'
    assert arguments.device == 'cuda:1' and arguments.history is True
    assert arguments.answers == Path('folder')
    assert read_arguments(batch_size='auto').slots == 8


def test_pretrained_is_a_model_or_a_checkpoint(tmp_path):
    file = tmp_path / 'epoch_1.pth'
    file.touch()
    arguments = read_arguments(pretrained=SMALL)
    assert (arguments.model, arguments.checkpoint) == (SMALL, None)
    # names are found in any case, as in the commands
    assert read_arguments(pretrained=SMALL.upper()).checkpoint is None
    arguments = read_arguments(pretrained='config.py')
    assert (arguments.model, arguments.checkpoint) == ('config.py', None)
    arguments = read_arguments(pretrained=str(file))
    expected = (DEFAULT_MODEL, str(file))
    assert (arguments.model, arguments.checkpoint) == expected
    arguments = read_arguments(pretrained=str(file), model=SMALL)
    assert (arguments.model, arguments.checkpoint) == (SMALL, str(file))
    # load_model lists the models, or states that the file does not exist
    assert read_arguments(pretrained='minigpt-5').model == 'minigpt-5'
    arguments = read_arguments(pretrained='gone.pth', model=SMALL)
    assert arguments.checkpoint == 'gone.pth'


@pytest.mark.parametrize(
    'given, message',
    [
        (dict(modelname='x'), 'did you mean model'),
        (dict(batch_size=0), 'batch_size is 0; expected a whole number'),
        (dict(workers='two'), 'workers is "two"; expected a whole number'),
        (dict(likelihood='sum'), 'expected loss or log_likelihood'),
        (dict(history='maybe'), 'history is "maybe"; expected yes or no'),
        (dict(model=7), 'model is 7; expected a name or a path'),
        (
            dict(pretrained=SMALL, model=DEFAULT_MODEL),
            'pretrained=.* is a model, and model=.* is given too',
        ),
        (
            dict(pretrained='a.pth', checkpoint='b.pth', model=SMALL),
            'is a checkpoint, and checkpoint=b.pth is given too',
        ),
    ],
)
def test_other_arguments_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        read_arguments(**given)
