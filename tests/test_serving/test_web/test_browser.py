# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The web page in a real browser.

MINIGPT4_SCREENSHOT=docs/images/web.png takes the screenshot of the docs.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser import running_server

from minigpt4.serving.web.example_list import EXAMPLES

pytestmark = pytest.mark.slow
NAME = 'minigpt-4_nano_caption'
IMAGES = [str(EXAMPLES / f'nano{i}.png') for i in (1, 2, 3)]
POEM = 'Can you write a beautiful poem about this image?'
# ``minigpt4 serve``, which also prints how each answer ends. While the file
# of the first argument exists, the engine waits before each token. While the
# file of the second one exists, each token of an answer after the tenth
# takes three seconds, unless it is cancelled: the nano model would be done
# before a browser can stop it. While the file of the third one exists, the
# event of an answer ends after its last update, as on a busy machine.
SERVER = """
import os, sys, time
from minigpt4_cli.main import main
from minigpt4.generation.engine import Engine
from minigpt4.generation.request import GenerationRequest
from minigpt4.serving.web.actions import Actions
step, finish = Engine.step, GenerationRequest.finish
append, ask = GenerationRequest.append_token, Actions.ask
def slow_step(self):
    if self.running and os.path.exists(sys.argv[1]):
        time.sleep(0.05)
    return step(self)
def held_append(self, *args):
    append(self, *args)
    end = time.monotonic() + 3
    while (len(self.token_ids) >= 10 and not self.cancelled
           and os.path.exists(sys.argv[2]) and time.monotonic() < end):
        time.sleep(0.02)
def printing_finish(self, reason, error=None):
    print('an answer ended:', reason)
    finish(self, reason, error)
def late_ask(*args):
    yield from ask(*args)
    if os.path.exists(sys.argv[3]):
        time.sleep(1)
Engine.step, GenerationRequest.finish = slow_step, printing_finish
GenerationRequest.append_token, Actions.ask = held_append, late_ask
sys.exit(main(sys.argv[4:]))
"""


@pytest.fixture(scope='module')
def log(tmp_path_factory):
    """The output of the server."""
    return tmp_path_factory.mktemp('server') / 'log'


def existing(file: Path) -> Iterator[Path]:
    """A file for the time of a test."""
    file.touch()
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def slow(log):
    """Slows generation down."""
    yield from existing(log.with_name('slow'))


@pytest.fixture
def held(log):
    """Delays the tokens of long answers, while this file exists."""
    yield from existing(log.with_name('held'))


@pytest.fixture
def late(log):
    """Delays the end of each answer's event."""
    yield from existing(log.with_name('late'))


@pytest.fixture(scope='module')
def server(log):
    """The address of a server, started with the command of users."""
    words = ('serve', '--web', '--quiet', '--model', NAME, '--port', '0')
    files = [log.with_name(name) for name in ('slow', 'held', 'late')]
    program = ['-c', SERVER, *files, *words]
    with running_server(program, r'chat page: (\S+)', log) as address:
        yield address


class ChatPage:
    """The page in one tab of a browser."""

    def __init__(self, context, url: str, width: int, height: int) -> None:
        self.page = context.new_page()
        self.page.set_viewport_size(dict(width=width, height=height))
        self.page.set_default_timeout(120_000)
        self.external: list[str] = []
        self.errors: list[str] = []
        self.page.on('request', self._note_request)
        self.page.on('requestfailed', self._note_blocked)
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))
        self._own = (url, 'data:', 'blob:')
        self.page.goto(url)
        self.box = self.page.locator('#box textarea:enabled')
        self.box.wait_for()

    def _note_request(self, request) -> None:
        if not request.url.startswith(self._own):
            self.external.append(request.url)

    def _note_blocked(self, request) -> None:
        # older Gradios request external fonts, which our policy blocks
        if request.failure == 'csp' and request.url in self.external:
            self.external.remove(request.url)

    def upload(self, *files: str) -> None:
        self.page.locator('#box input[type=file]').set_input_files(files)
        self.wait_for_images(len(files))

    def wait_for_images(self, number: int) -> None:
        images = self.page.locator('#box .thumbnail-item')
        images.nth(number - 1).wait_for()
        assert images.count() == number

    def send(self, question: str) -> None:
        self.page.bring_to_front()  # hidden tabs are not drawn
        self.box.fill(question)
        self.box.press('Enter')

    def wait_for_end(self) -> None:
        self.page.locator('#box .submit-button').wait_for()

    def wait_for_answers(self, expected: list[str]) -> None:
        """Wait until the chat has these answers."""
        self.page.wait_for_function(
            """(expected) => {
                const answers = document.querySelectorAll(
                    '#chat .bot.message');
                const texts = [...answers].map(a => a.innerText.trim());
                return JSON.stringify(texts) === JSON.stringify(expected);
            }""",
            arg=expected,
        )

    def ask(self, question: str, *files: str) -> str:
        if files:
            self.upload(*files)
        number = len(self.answers)
        self.send(question)
        self.page.wait_for_function(
            """(n) => {
                const answers = document.querySelectorAll(
                    '#chat .bot.message');
                return answers.length > n
                    && answers[n].innerText.trim()
                    && document.querySelector('#box .submit-button');
            }""",
            arg=number,
        )
        return self.answers[-1]

    def press(self, name: str) -> None:
        self.page.get_by_role('button', name=name, exact=True).click()

    def stop(self) -> None:
        self.page.locator('#box .stop-button').click()
        self.wait_for_end()

    def wait_for_text(self) -> None:
        """Wait until the last answer has some text."""
        self.page.wait_for_function(
            '[...document.querySelectorAll("#chat .bot.message")].pop()'
            '?.innerText.trim().length > 3'
        )

    @property
    def answers(self) -> list[str]:
        return self.page.locator('#chat .bot.message').all_inner_texts()

    @property
    def usage(self) -> str:
        return self.page.locator('#usage').inner_text()

    @property
    def notice(self) -> str:
        self.page.locator('#notice').wait_for()
        return self.page.locator('#notice').inner_text()

    def watch(self) -> None:
        """Record each text of the last answer from now on."""
        self.page.evaluate(
            """() => {
                const answers = '#chat .bot.message';
                window.seen = [];
                new MutationObserver(() => {
                    const last = [...document.querySelectorAll(answers)].pop();
                    const text = last?.innerText.trim() ?? '';
                    if (window.seen.at(-1) !== text) window.seen.push(text);
                }).observe(document.querySelector('#chat'), {
                    subtree: true, childList: true, characterData: true});
            }"""
        )

    @property
    def seen(self) -> list[str]:
        return self.page.evaluate('window.seen')


@pytest.fixture(scope='module')
def context(chromium):
    """A browser whose tabs share the cached files of the page."""
    context = chromium.new_context()
    yield context
    context.close()


@pytest.fixture
def new_page(context, server):
    """Function that opens the page in a new tab."""
    opened: list[ChatPage] = []

    def open_page(width: int = 1280, height: int = 980) -> ChatPage:
        opened.append(ChatPage(context, server, width, height))
        return opened[-1]

    yield open_page
    for chat in opened:
        chat.page.close()
        assert chat.external == [], 'the page loads external files'
        assert chat.errors == []


def test_two_images_a_follow_up_and_export(slow, new_page):
    chat = new_page()
    chat.watch()
    answer = chat.ask('Describe this image in detail.', *IMAGES[1:])
    grown = [text for text in chat.seen if text]
    assert len(grown) > 3, 'the text was not streamed'
    assert all(b.startswith(a) for a, b in zip(grown, grown[1:])), grown
    assert grown[-1] == answer.strip()
    assert chat.page.locator('#chat .user.message img').count() == 2

    follow_up = chat.ask('How many shapes are there?')
    assert re.fullmatch(r'There (is|are) \w+ shapes?\.', follow_up.strip())
    cached = re.search(r'(\d+) tokens, (\d+) of them cached', chat.usage)
    assert int(cached[2]) > 0.7 * int(cached[1]) > 50

    chat.press('Export')
    links = chat.page.locator('#files a[download]')
    links.nth(1).wait_for()
    saved = []
    for i in range(2):
        with chat.page.expect_download() as download:
            links.nth(i).click()
        saved.append(Path(download.value.path()).read_text('utf-8'))
        assert download.value.suggested_filename.startswith('minigpt4_chat')
    history = json.loads(saved[0])
    assert [turn['answer'] for turn in history['turns']] == [
        answer.strip(),
        follow_up.strip(),
    ]
    assert len(history['images']) == 2
    assert saved[1].count('**Answer:**') == 2


def test_a_conversation(new_page):
    chat = new_page()
    chat.ask('Describe this image in detail.', IMAGES[1])
    chat.ask('What color is the star?')
    if file := os.environ.get('MINIGPT4_SCREENSHOT'):
        chat.page.wait_for_timeout(1000)  # until it has scrolled
        chat.page.screenshot(path=file)
    chat.ask(POEM)
    assert [answer.strip() for answer in chat.answers] == [
        'The image shows two shapes on a white background. In the top right '
        'there is a small orange star. In the bottom right there is a small '
        'yellow square.',
        'The star is orange.',
        'O orange star, so small and bright,\nO yellow square, so small and '
        'bright,\nupon a field of white light.',
    ]


def test_a_question_before_the_event_of_the_last_answer_ends(late, new_page):
    chat = new_page()
    chat.ask('Describe this image in detail.', IMAGES[1])
    assert chat.ask('What color is the star?').strip() == 'The star is orange.'


def test_enter_pressed_twice_asks_once(slow, new_page):
    chat = new_page()
    chat.send('Hello!')
    chat.box.press('Enter')
    chat.page.get_by_text('Hello! Show me an image.').wait_for()
    chat.wait_for_end()
    assert chat.answers == ['Hello! Show me an image.']
    assert chat.box.input_value() == ''


def test_stop_and_regenerate(held, new_page):
    chat = new_page()
    chat.upload(IMAGES[2])
    chat.send(POEM)
    chat.wait_for_text()
    chat.stop()
    stopped = chat.answers[-1].strip()
    assert chat.usage.endswith('tokens, stopped.')
    chat.press('Regenerate')
    chat.page.locator('#box .stop-button').wait_for()
    held.unlink()
    chat.wait_for_end()
    (complete,) = (text.strip() for text in chat.answers)
    assert complete.startswith(stopped) and len(complete) > len(stopped)
    assert complete.endswith('light.')


def test_clear_while_an_answer_is_generated(held, new_page):
    chat = new_page()
    chat.upload(IMAGES[2])
    chat.send(POEM)
    chat.wait_for_text()
    chat.press('Clear')
    chat.wait_for_end()
    # an update of the old answer may be drawn before it ends
    chat.wait_for_answers([])
    held.unlink()
    chat.send('Hello!')
    chat.wait_for_answers(['Hello! Show me an image.'])
    chat.wait_for_end()
    assert chat.answers == ['Hello! Show me an image.']


def test_tabs_are_independent(new_page):
    first, second = new_page(), new_page()
    first.ask('Describe this image in detail.', IMAGES[0])
    assert second.answers == []
    second.ask('Describe this image in detail.', IMAGES[1])
    assert 'triangle' in first.answers[0] and 'star' in second.answers[0]
    assert 'triangle' in first.ask('Describe this image in detail.')


def test_example_fills_the_box(new_page):
    chat = new_page()
    chat.page.locator('#examples .thumbnail-item').nth(3).click()
    chat.wait_for_images(1)
    assert 'advertisement' in chat.box.input_value()
    chat.box.press('Enter')
    chat.wait_for_text()
    chat.wait_for_end()
    assert 'green triangle today!' in chat.answers[0]


def test_images_are_dropped_and_pasted(new_page):
    chat = new_page()
    data = list(Path(IMAGES[1]).read_bytes())
    for number, kind in enumerate(('drop', 'paste'), 1):
        chat.page.evaluate(
            """([data, kind]) => {
                const files = new DataTransfer();
                files.items.add(new File(
                    [new Uint8Array(data)], kind + '.png',
                    {type: 'image/png'}));
                const about = {bubbles: true, cancelable: true};
                const event = kind === 'drop'
                    ? new DragEvent(kind, {dataTransfer: files, ...about})
                    : new ClipboardEvent(
                        kind, {clipboardData: files, ...about});
                document.querySelector('#box textarea').dispatchEvent(event);
            }""",
            [data, kind],
        )
        chat.wait_for_images(number)
    assert 'star' in chat.ask('Describe this image in detail.')


def test_broken_image_is_reported(new_page, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(Path(IMAGES[0]).read_bytes()[:500])
    chat = new_page()
    chat.upload(str(broken))
    chat.send('What is this?')
    assert 'image' in chat.notice.lower()
    assert chat.answers == []
    chat.page.wait_for_function(
        'document.querySelector("#box textarea").value === "What is this?"'
    )


def test_settings_are_used(new_page):
    chat = new_page()
    chat.page.locator('#settings button').first.click()
    length = chat.page.get_by_label('number input for Maximum length')
    slider = chat.page.get_by_label('range slider for Maximum length')
    # a page that is still loading sets its defaults again
    for _ in range(20):
        length.fill('5')
        length.press('Tab')
        chat.page.wait_for_timeout(500)
        if slider.input_value() == '5':
            break
    chat.ask('Describe this image in detail.', IMAGES[0])
    assert chat.usage.endswith('5 tokens, cut at the maximum length.')


def test_closed_tab_cancels_its_answer(held, new_page, log):
    def ends() -> list[str]:
        return re.findall(r'an answer ended: (\w+)', log.read_text())

    chat = new_page()
    chat.upload(IMAGES[2])
    before = len(ends())
    chat.send(POEM)
    chat.wait_for_text()
    chat.page.close()
    deadline = time.monotonic() + 120
    while len(ends()) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ends()[before:] == ['cancelled']


def test_narrow_screen_needs_no_sideways_scrolling(new_page):
    chat = new_page(width=390, height=844)
    width = chat.page.evaluate('document.documentElement.scrollWidth')
    assert width <= 390, 'the page is wider than the screen'
    assert 'shape' in chat.ask('How many shapes are there?', IMAGES[0])
