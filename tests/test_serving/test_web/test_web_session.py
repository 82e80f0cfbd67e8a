# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Sessions of the web page: turns, thumbnails, export, errors."""

import base64
import io
import re
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from minigpt4.chat.session import ChatSession
from minigpt4.generation.worker import QueueFull
from minigpt4.images.read import load_image
from minigpt4.images.request_images import ImageLimits, ImageSources
from minigpt4.prompts import Turn
from minigpt4.serving.web.display import error_text
from minigpt4.serving.web.example_list import EXAMPLES
from minigpt4.serving.web.uploads import Uploads
from minigpt4.serving.web.web_session import SessionBusy, WebSession

DESCRIBE = 'Describe this image in detail.'
IMAGES = [str(EXAMPLES / f'nano{i}.png') for i in (1, 2, 3)]
LONG = dict(min_new_tokens=200, max_new_tokens=200)


@pytest.fixture
def session(worker):
    return WebSession(worker)


@pytest.fixture
def slow_engine(worker, monkeypatch):
    """A long answer takes ten seconds at least."""
    step = worker.engine.step
    monkeypatch.setattr(
        worker.engine, 'step', lambda: time.sleep(0.05) or step()
    )


def run(steps) -> int:
    """Run all steps; returns their number."""
    return sum(1 for _ in steps)


def save_image(path: Path, color, size=(90, 60)) -> str:
    Image.new('RGB', size, color).save(path)
    return str(path)


def test_several_images_in_several_turns(session):
    assert run(session.ask(DESCRIBE, IMAGES[1:2])) > 1
    assert 'orange star' in session.turns[0].answer
    run(session.ask('How many shapes are there?'))
    assert session.turns[1].answer == 'There are two shapes.'
    run(session.ask(DESCRIBE, IMAGES[:2]))
    assert len(session.chat.images) == 3
    assert [len(turn.files) for turn in session.turns] == [1, 0, 2]
    assert session.chat.last.reused_tokens > 40
    assert f'{session.chat.last.reused_tokens} of them cached' in session.usage


def test_answer_grows_step_by_step(session, slow_engine):
    seen = []
    settings = dict(min_new_tokens=40, max_new_tokens=40)
    for _ in session.ask('Write a poem.', IMAGES[2:], **settings):
        seen.append(session.turns[-1].answer)
    assert seen[0] == ''  # the question is displayed before the answer
    assert len(set(seen)) > 2
    assert all(b.startswith(a) for a, b in zip(seen, seen[1:]))
    assert seen[-1] == session.chat.turns[-1].answer


def test_sessions_are_independent(worker):
    first, second = WebSession(worker), WebSession(worker)
    run(first.ask(DESCRIBE, IMAGES[:1]))
    run(second.ask(DESCRIBE, IMAGES[1:2]))
    assert first.chat is not second.chat
    assert 'triangle' in first.turns[0].answer
    assert 'star' in second.turns[0].answer
    assert len(first.turns) == len(second.turns) == 1
    assert not torch.equal(first.chat.tensors[0], second.chat.tensors[0])


def test_colour_channels_are_not_swapped(session, tmp_path):
    """The demo of MMPretrain swaps red and blue."""
    run(session.ask(DESCRIBE, [save_image(tmp_path / 'red.png', (255, 0, 0))]))
    (tensor,) = session.chat.tensors
    assert tensor.amin((1, 2)).tolist() == [255, 0, 0]


def test_model_receives_the_pixels_of_the_official_pipeline(session, model):
    file = str(EXAMPLES / 'lake.png')
    run(session.ask(DESCRIBE, [file]))
    expected = load_image(file, model.image_size)
    assert torch.equal(session.chat.tensors[0], expected)


def test_image_without_a_question_asks_the_models_prompt(session, model):
    run(session.ask('  ', IMAGES[:1]))
    assert session.turns[0].question == model.prompt
    assert 'green triangle' in session.turns[0].answer


def test_stopped_answer_keeps_its_text(session, slow_engine):
    steps = session.ask('Write a poem.', IMAGES[:1], **LONG)
    next(steps)
    next(steps)
    session.stop()
    run(steps)
    last = session.chat.last
    assert last.finish_reason == 'cancelled'
    assert session.usage.endswith(' tokens, stopped.')
    assert 0 < len(last.token_ids) < 200
    assert session.turns[-1].answer == session.chat.turns[-1].answer != ''
    run(session.ask('How many shapes are there?'))
    assert len(session.chat.turns) == len(session.turns) == 2


def test_closed_steps_cancel_the_answer(session, slow_engine):
    steps = session.ask('Write a poem.', IMAGES[:1], **LONG)
    next(steps)
    next(steps)
    steps.close()
    assert session.chat.last.cancelled
    run(session.ask('Hello!'))  # the chat accepts questions again


def test_second_answer_at_the_same_time_is_refused(session):
    steps = session.ask('Write a poem.', IMAGES[:1], **LONG)
    next(steps)
    with pytest.raises(SessionBusy, match='still being written'):
        run(session.ask('Hello!'))
    with pytest.raises(SessionBusy, match='still being written'):
        run(session.regenerate())
    steps.close()


def test_answer_stops_at_its_time_limit(worker, slow_engine):
    session = WebSession(worker, max_seconds=0.2)
    list(session.ask('Write a poem.', IMAGES[1:2], **LONG))
    assert session.usage.endswith('stopped.')


def test_regenerate_replaces_the_last_answer(session):
    run(session.ask('Write a poem.', IMAGES[2:]))
    run(session.ask('How many shapes are there?'))
    settings = dict(do_sample=True, temperature=8.0, max_new_tokens=20)
    run(session.regenerate(seed=1, **settings))
    one = session.turns[-1].answer
    run(session.regenerate(seed=2, **settings))
    assert session.turns[-1].answer != one
    run(session.regenerate(seed=1, **settings))
    assert session.turns[-1].answer == one
    assert len(session.turns) == len(session.chat.turns) == 2
    assert session.chat.turns[-1].answer == one


def test_regenerate_without_a_question_is_refused(session):
    with pytest.raises(ValueError, match='nothing was asked yet'):
        run(session.regenerate())


def test_refused_regeneration_keeps_the_old_answer(session, monkeypatch):
    run(session.ask('How many shapes are there?', IMAGES[:1]))

    def refuse(*args, **settings):
        raise QueueFull(3, 2.0)

    monkeypatch.setattr(session.chat.engine, 'submit', refuse)
    with pytest.raises(QueueFull):
        run(session.regenerate())
    assert session.turns[0].answer == 'There is one shape.'


def test_failed_regeneration_keeps_the_old_answer(session, monkeypatch):
    run(session.ask('How many shapes are there?', IMAGES[:1]))

    def fail(generation):
        generation.finish('error', RuntimeError('the engine broke'))
        raise generation.error
        yield

    with monkeypatch.context() as patch:
        patch.setattr(type(session.chat.last), 'pieces', fail)
        with pytest.raises(RuntimeError, match='broke'):
            run(session.regenerate())
    assert session.turns[0].answer == 'There is one shape.'
    run(session.ask('How many shapes are there?'))
    assert session.turns[1].answer == 'There is one shape.'
    assert len(session.chat.turns) == 2


def test_generation_settings_are_used(session):
    run(session.ask('Hello!', do_sample=True, top_p=0.8, max_new_tokens=12))
    used = session.chat.last.sampling_params
    assert (used.do_sample, used.top_p, used.max_new_tokens) == (True, 0.8, 12)
    run(session.ask('Hello!', num_beams=4))
    assert session.chat.last.sampling_params.num_beams == 4


def test_cut_answer_is_reported(session):
    run(session.ask(DESCRIBE, IMAGES[:1], max_new_tokens=5))
    assert session.usage.endswith('5 tokens, cut at the maximum length.')


def test_full_context_is_reported(session, worker):
    session.chat = ChatSession(worker, max_context=90)
    for _ in range(4):
        run(session.ask(DESCRIBE, max_new_tokens=20))
    assert 'the context is full (90 tokens)' in session.notice


@pytest.mark.parametrize(
    'limits, words',
    [
        (ImageLimits(bytes=100), 'at most 100 are allowed'),
        (ImageLimits(pixels=100), 'at most 100 are allowed'),
    ],
)
def test_large_images_are_refused(worker, limits, words):
    session = WebSession(worker, ImageSources(limits))
    with pytest.raises(ValueError, match=words):
        run(session.ask(DESCRIBE, IMAGES[:1]))
    assert session.turns == session.chat.turns == []


def test_a_broken_image_is_named_in_one_error_text(session, tmp_path):
    file = tmp_path / 'broken.png'
    file.write_bytes(Path(IMAGES[0]).read_bytes()[:300])
    with pytest.raises(ValueError) as caught:
        run(session.ask(DESCRIBE, [str(file)]))
    assert 'image' in error_text(caught.value)
    assert '\n' not in error_text(caught.value)
    assert session.turns == session.chat.turns == []
    run(session.ask(DESCRIBE, IMAGES[:1]))  # the chat continues


def test_too_many_images_are_refused(worker):
    session = WebSession(worker, max_images=2)
    with pytest.raises(ValueError, match='3 images were given'):
        run(session.ask(DESCRIBE, IMAGES))


def test_empty_question_is_refused(session):
    with pytest.raises(ValueError, match='nothing was asked'):
        run(session.ask(' '))


def test_export_continues_as_a_chat(session, worker):
    lake = str(EXAMPLES / 'lake.png')
    run(session.ask('Write a poem.', [IMAGES[1], lake]))
    run(session.ask('How many shapes are there?'))
    as_json, as_markdown = session.export()
    loaded = ChatSession.load(as_json, worker)
    assert loaded.turns == [
        Turn(turn.question, turn.answer) for turn in session.chat.turns
    ]
    for there, here in zip(loaded.tensors, session.chat.tensors, strict=True):
        assert torch.equal(there, here)
    assert Path(as_json).stat().st_size < 50_000

    text = Path(as_markdown).read_text('utf-8')
    assert text.index('Write a poem.') < text.index('How many shapes')
    assert session.turns[1].answer in text
    urls = re.findall(r'!\[.*?\]\(data:image/jpeg;base64,(.*?)\)', text)
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(data))).size for data in urls
    ]
    assert sizes == [(256, 256), (320, 320)]


def test_empty_chat_is_not_exported(session):
    with pytest.raises(ValueError, match='the chat is empty'):
        session.export()


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / 'uploads'
    folder.mkdir()
    return Uploads(folder, 2**30, 2**24, (EXAMPLES,))


def put(uploads, name: str) -> str:
    """Put an image into the uploads; returns its path."""
    path = uploads.folder / name / 'a.png'
    path.parent.mkdir()
    path.write_bytes((EXAMPLES / 'nano2.png').read_bytes())
    return str(path)


def test_upload_is_deleted_when_its_question_is_answered(worker, uploads):
    session = WebSession(worker, uploads=uploads)
    path = put(uploads, '1')
    for _ in session.ask('How many shapes are there?', [path]):
        displayed = session.turns[0].files[0]
        assert Path(displayed).is_file() and displayed != path
    assert session.turns[0].answer == 'There are two shapes.'
    assert not Path(path).exists()
    with Image.open(displayed) as small:
        assert max(small.size) <= 384
    for _ in session.regenerate():
        pass
    assert session.turns[0].answer == 'There are two shapes.'
    session.close()
    assert not Path(displayed).exists()


def test_upload_is_kept_when_its_question_fails(worker, uploads, monkeypatch):
    session = WebSession(worker, uploads=uploads)
    path = put(uploads, '1')

    def refuse(*args, **settings):
        raise ValueError('no')

    with monkeypatch.context() as patch:
        patch.setattr(session.chat.engine, 'submit', refuse)
        with pytest.raises(ValueError, match='no'):
            list(session.ask('Hello', [path]))
    assert Path(path).is_file()
    list(session.ask('Hello', [path]))
    assert not Path(path).exists()


def test_only_uploaded_files_are_read(worker, uploads, tmp_path):
    private = tmp_path / 'private.png'
    Image.new('RGB', (8, 8)).save(private)
    session = WebSession(worker, uploads=uploads)
    with pytest.raises(ValueError, match='upload it again'):
        list(session.ask('Hello', [str(private)]))
