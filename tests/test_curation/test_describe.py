# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Descriptions of the stage-1 model: prompt, failures, identity."""

import pytest

from minigpt4.curation.describe import (
    DescribeSettings,
    DescribeStep,
    model_identity,
    shared_model,
)
from minigpt4.curation.pipeline import StepItem
from minigpt4.endpoints import local_model

SHORT = dict(max_new_tokens=6)


@pytest.fixture
def items(added):
    """Makes the items of files, numbered from 1."""
    return lambda *paths: iter(
        [StepItem(added(n, path), '', {}) for n, path in enumerate(paths, 1)]
    )


def test_images_are_described_and_failures_are_results(
    images, tmp_path, items
):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no image')
    step = DescribeStep(DescribeSettings(generation=SHORT, device='cpu'))
    paths = [
        images / '00.png',
        broken,
        tmp_path / 'none.png',
        images / '01.png',
    ]
    found = {r.image: r for r in step.run(items(*paths))}
    assert [found[i].status for i in (1, 2, 3, 4)] == [
        'ok',
        'failed',
        'failed',
        'ok',
    ]
    assert found[1].text and found[1].details['tokens'] == 6
    assert found[1].details['finished'] is False
    assert found[1].details['seconds'] >= 0
    assert 'broken.png' in found[2].text and 'none.png' in found[3].text


def test_a_file_that_was_replaced_fails(images, tmp_path, items):
    path = tmp_path / 'a.png'
    path.write_bytes((images / '00.png').read_bytes())
    step = DescribeStep(DescribeSettings(generation=SHORT, device='cpu'))
    known = [*items(path)]
    path.write_bytes((images / '01.png').read_bytes())
    (found,) = step.run(iter(known))
    assert found.status == 'failed' and found.text == (
        f'{path} is not the file that was added to the ledger: it has '
        'changed since; add it again, or restore it.'
    )
    path.write_bytes((images / '00.png').read_bytes())
    (found,) = step.run(iter(known))
    assert found.status == 'ok'


def test_the_prompt_is_the_papers(images, monkeypatch, items):
    # reference: paper section 3.2, with the template of Vicuna
    seen = []
    model = shared_model('minigpt-4_nano_caption', None, 'cpu', None)
    collator = model.collator(training=False)
    tokenize = type(collator).tokenize

    def record(self, sample):
        prompt = tokenize(self, sample)
        seen.append(prompt)
        return prompt

    monkeypatch.setattr(type(collator), 'tokenize', record)
    step = DescribeStep(DescribeSettings(generation=SHORT, device='cpu'))
    list(step.run(items(images / '00.png')))
    (prompt,) = seen
    tokenizer = model.decoder.tokenizer
    text = tokenizer.decode(
        [i for i in prompt.ids if i >= 0 and i != tokenizer.bos_token_id]
    )
    assert ' '.join(text.split()).replace('> <', '><') == (
        '###Human: <Img></Img> Describe this image in detail. Give as many '
        'details as possible. Say everything you see. ###Assistant:'
    )


def test_the_results_do_not_depend_on_the_batch(images, items):
    paths = [images / f'{i:02}.png' for i in range(5)]

    def texts(slots, **sampling):
        settings = DescribeSettings(
            generation=dict(SHORT, **sampling), slots=slots, device='cpu'
        )
        step = DescribeStep(settings)
        return sorted((r.image, r.text) for r in step.run(items(*paths)))

    assert texts(1) == texts(4)
    sampling = dict(do_sample=True, temperature=2.0)
    assert texts(1, **sampling) == texts(4, **sampling) != texts(1)


def test_no_model_is_loaded_without_images(monkeypatch, items):
    monkeypatch.setattr(
        local_model, 'load_model', lambda *a: pytest.fail('loaded')
    )
    shared_model.cache_clear()
    step = DescribeStep(DescribeSettings())
    assert list(step.run(items())) == []


def test_identity_covers_model_and_checkpoint(tmp_path):
    def identity(**fields):
        return model_identity(DescribeSettings(**fields))

    nano = identity()
    assert nano['model'] == 'minigpt-4_nano_caption'
    assert len(nano['checkpoint']) == 64
    assert identity(slots=2, workers=3, device='cpu') == nano
    other = tmp_path / 'other.pth'
    other.write_bytes(b'weights')
    assert identity(pretrained=str(other)) != nano
    other.write_bytes(b'other weights')
    assert identity(pretrained=str(other))['checkpoint'] != nano['checkpoint']
    assert identity(template='llama2') != nano


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(ValueError, match='there is no model'):
        model_identity(DescribeSettings(model='nano'))
    with pytest.raises(ValueError, match='describe.template is .x.; expected'):
        model_identity(DescribeSettings(template='x'))
    with pytest.raises(ValueError, match='describe.generation: unknown'):
        DescribeStep(DescribeSettings(generation=dict(length=3)))
    with pytest.raises(FileNotFoundError, match='none.pth does not exist'):
        model_identity(DescribeSettings(pretrained=str(tmp_path / 'none.pth')))
