# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 data browse`` in a real browser."""

import json

import pytest
from tests.browser import running_server
from tests.data_sets import jpeg, noise, pair, write_shard

pytestmark = pytest.mark.slow
SCRIPT = '<script>window.bad=1</script><img src=x onerror="window.bad=1">'
ARABIC = 'قطة تجلس على سجادة'
CAPTIONS = [
    'There is a red star.',
    SCRIPT,
    ARABIC,
    'red star ' * 200,
    'a damaged image',
    *(f'star number {i}' for i in range(5, 120)),
]


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """The address of the page of a set of 121 records and a shard."""
    folder = tmp_path_factory.mktemp('data')
    (folder / 'image').mkdir()
    for i in range(len(CAPTIONS)):
        data = jpeg(noise(i))
        (folder / 'image' / f'{i}.jpg').write_bytes(
            data[:400] if i == 4 else data
        )
    content = [dict(image_id=i, caption=c) for i, c in enumerate(CAPTIONS)]
    (folder / 'a.json').write_text(json.dumps([*content, 'no record']))
    write_shard(folder / 'web' / '0.tar', {'key': pair(1, 'in a shard')})
    log = folder / 'log'
    words = ['data', 'browse', str(folder), '--port', '0']
    words += ['--config', 'configs/minigpt4/stage2_nano.py']
    program = ['-m', 'minigpt4_cli.main', *words]
    with running_server(program, r'browse page: (\S+)', log) as address:
        yield address


@pytest.fixture
def page(chromium, server):
    page = chromium.new_page(viewport=dict(width=1280, height=900))
    page.set_default_timeout(120_000)
    errors, external = [], []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on(
        'request',
        lambda request: (
            request.url.startswith((server, 'blob:', 'data:'))
            or external.append(request.url)
        ),
    )
    page.goto(server)
    page.locator('#record[data-number="1"]').wait_for()
    page.locator('#status', has_text='122 records').wait_for()
    yield page
    assert page.evaluate('window.bad') is None, 'a script of the data ran'
    page.close()
    assert errors == [] and external == []


def current(page, number):
    page.locator(f'#record[data-number="{number}"]').wait_for()
    page.locator('#list li[aria-current]').wait_for()


def test_the_prompt_is_shown_as_text_and_as_ids(page):
    page.locator('#images img').wait_for()
    supervised = page.locator('#tokens .supervised')
    assert ''.join(supervised.all_text_contents()).strip() == (
        'There is a red star.###'
    )
    assert page.locator('#tokens .slot').inner_text() == 'image: 22 tokens'
    colour = 'e => getComputedStyle(e).backgroundColor'
    plain = page.locator('#tokens .token:not(.supervised)').first
    assert supervised.first.evaluate(colour) != plain.evaluate(colour)
    page.keyboard.press('t')
    ids = page.locator('#tokens .token').all_text_contents()
    assert len(ids) > 10 and all(text.isdigit() for text in ids)
    assert str(len(ids) + 22) in page.locator('#lengths').inner_text()


def test_the_keyboard(page):
    page.keyboard.press('j')
    current(page, 2)
    page.keyboard.press('k')
    current(page, 1)
    page.keyboard.press('n')
    current(page, 51)
    page.keyboard.press('p')
    page.keyboard.press('g')
    page.keyboard.type('77')
    page.keyboard.press('Enter')
    current(page, 77)
    page.keyboard.press('k')  # the last record of the page before
    page.keyboard.press('/')
    page.keyboard.type('jjj')
    assert page.locator('#query').input_value() == 'jjj'
    page.keyboard.press('Escape')


def test_search(page):
    page.keyboard.press('/')
    page.keyboard.type('NUMBER 119')
    page.locator('#status', has_text='1 found').wait_for()
    current(page, 120)
    page.locator('#query').fill('in a shard')
    current(page, 122)
    page.locator('#images img').wait_for()


def test_texts_of_the_data_are_no_markup(page):
    page.keyboard.press('j')
    current(page, 2)
    assert SCRIPT in page.locator('#turns').inner_text()
    assert (
        page.locator('#turns img, #tokens img, #list .text img').count() == 0
    )


def test_text_from_right_to_left(page):
    page.locator('#query').fill('سجادة')
    current(page, 3)
    body = page.locator('#turns span').last
    assert body.inner_text() == ARABIC
    assert body.evaluate('e => getComputedStyle(e).direction') == 'rtl'
    tokens = page.locator('#tokens .supervised').all_text_contents()
    assert ''.join(tokens).strip() == f'{ARABIC}###'


def test_cut_answers_broken_images_and_invalid_records(page):
    page.keyboard.press('g')
    page.keyboard.type('4')
    page.keyboard.press('Enter')
    current(page, 4)
    assert 'max_text_length is 160' in page.locator('#warning').inner_text()
    assert page.locator('#tokens .supervised').count() == 160
    assert page.locator('#tokens .cut').count() > 100
    page.keyboard.press('j')
    current(page, 5)
    error = page.locator('#images .bad')
    assert 'it is truncated' in error.inner_text()
    page.locator('#invalid').check()
    current(page, 121)
    assert 'is a string' in page.locator('#error').inner_text()
