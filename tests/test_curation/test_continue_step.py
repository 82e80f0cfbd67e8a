# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Short descriptions are continued, long ones pass unchanged."""

import pytest

from minigpt4.curation.continue_step import ContinueSettings, ContinueStep
from minigpt4.curation.describe import DescribeSettings, shared_model
from minigpt4.curation.pipeline import StepItem
from minigpt4.prompts import TEMPLATES, Turn, render

DESCRIBE = DescribeSettings(device='cpu', generation=dict(max_new_tokens=7))
TEXT = 'The image shows a red circle.'


@pytest.fixture
def item(added):
    """Makes an item of a file, with the tokens of its description."""
    return lambda number, path, tokens: StepItem(
        added(number, path), TEXT, dict(tokens=tokens, finished=True)
    )


def run(items, **settings):
    step = ContinueStep(ContinueSettings(**settings), DESCRIBE)
    return {r.image: r for r in step.run(iter(items))}


def test_at_most_80_tokens_are_continued(images, item):
    path = images / '00.png'
    found = run([item(1, path, 81), item(2, path, 80), item(3, path, 200)])
    assert found[1].text == found[3].text == TEXT
    assert found[1].details == dict(
        tokens=81, finished=True, continued=False, seconds=0.0
    )
    longer = found[2]
    assert longer.text.startswith(TEXT + ' ') and len(longer.text) > len(TEXT)
    assert longer.details['continued'] is True
    assert 80 < longer.details['tokens'] <= 87


def test_other_limits(images, item):
    path = images / '00.png'
    assert run([item(1, path, 5)], min_tokens=4)[1].text == TEXT
    assert run([item(1, path, 5)], min_tokens=0)[1].text == TEXT


def test_an_unreadable_image_is_a_failure(tmp_path, item):
    found = run([item(1, tmp_path / 'none.png', 1)])
    assert found[1].status == 'failed' and 'none.png' in found[1].text


def test_a_file_that_was_replaced_fails(images, tmp_path, item):
    path = tmp_path / 'a.png'
    path.write_bytes((images / '00.png').read_bytes())
    known = item(1, path, 1)
    path.write_bytes((images / '01.png').read_bytes())
    found = run([known])[1]
    assert found.status == 'failed'
    assert f'{path} is not the file that was added' in found.text


def test_the_prompt_is_the_papers():
    turns = [Turn('<ImageHere>Q', TEXT), Turn(ContinueSettings().prompt)]
    segments = render(turns, TEMPLATES['vicuna_v0'])
    text = ''.join(segment.text or '' for segment in segments)
    assert text.endswith(f'{TEXT}###Human: Continue ###Assistant: ')


def test_the_model_sees_its_description(images, monkeypatch, item):
    seen = []
    model = shared_model('minigpt-4_nano_caption', None, 'cpu', None)
    collator = type(model.collator(training=False))
    tokenize = collator.tokenize
    monkeypatch.setattr(
        collator,
        'tokenize',
        lambda self, sample: (
            seen.append(sample.turns) or tokenize(self, sample)
        ),
    )
    run([item(1, images / '00.png', 1)])
    ((first, second),) = seen
    assert (first.question, first.answer) == (DESCRIBE.prompt, TEXT)
    assert (second.question, second.answer) == ('Continue', None)
