# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page of an explanation: complete, safe, and usable with a keyboard."""

import json
import re
from pathlib import Path

import pytest
from tests.test_explain.conftest import SCENE

from minigpt4.explain.page import check_output, write_json, write_page
from minigpt4.images.thumbnail import data_url, thumbnail_of_file

EVIL = '</script><img src=x onerror=document.title=1>'


@pytest.fixture
def data(nano_explanation) -> dict:
    return dict(
        nano_explanation.to_json(),
        image=f'{EVIL}.png',
        model='minigpt-4_nano_caption',
        pretrained=None,
        prompt=f'What? {EVIL}',
    )


@pytest.fixture
def photo() -> str:
    return data_url(thumbnail_of_file(SCENE, 256))


def test_the_page_has_no_tags_of_names_or_answers(data, photo, tmp_path):
    plain = tmp_path / 'plain.html'
    write_page(dict(data, image='', prompt=''), photo, plain)
    data['words']['texts'][0] = data['answer'] = EVIL
    page = tmp_path / 'page.html'
    write_page(data, photo, page)
    text = page.read_text('utf-8')
    for tag in ('<script', '</script', '<img'):
        assert text.count(tag) == plain.read_text('utf-8').count(tag)
    assert not re.search('(src|href)="?http', text)
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(found) == dict(data, thumbnail=photo)


def test_only_explanations_are_replaced(data, photo, tmp_path):
    page, numbers = tmp_path / 'a' / 'page.html', tmp_path / 'page.json'
    for path in (page, numbers):
        check_output(path, '-o')
    write_page(data, photo, page)
    write_json(data, numbers)
    assert json.loads(numbers.read_text('utf-8')) == data
    for path in (page, numbers):
        check_output(path, '-o')
    other = tmp_path / 'notes.html'
    other.write_text('mine')
    with pytest.raises(ValueError, match='no explanation.*as --json'):
        check_output(other, '--json')
    with pytest.raises(ValueError, match='is a folder; give the name of a f'):
        check_output(tmp_path, '--json')


@pytest.mark.slow
def test_the_page_in_a_browser(chromium, data, photo, tmp_path):
    from playwright.sync_api import expect

    data['words']['texts'][0] = EVIL
    write_page(data, photo, tmp_path / 'page.html')
    page = chromium.new_page()
    problems: list = []
    page.on('pageerror', lambda error: problems.append(error))
    page.on('console', lambda message: problems.append(message.text))
    page.on(
        'request',
        lambda request: (
            request.url.startswith(('file:', 'data:'))
            or problems.append(request.url)
        ),
    )
    page.goto(Path(tmp_path / 'page.html').absolute().as_uri())
    canvas, shown = page.locator('#map'), page.locator('#shown')
    # first the word that needs the image most
    increase = data['words']['loss_increase_without_image']
    most = increase.index(max(increase))
    expect(canvas).to_have_attribute('data-shown', f'word {most}')

    def pixels():
        return canvas.evaluate('canvas => canvas.toDataURL()')

    before = pixels()
    left = data['words']['texts'].index('left')
    page.locator('#answer button').nth(left).click()
    expect(canvas).to_have_attribute('data-shown', f'word {left}')
    expect(shown).to_contain_text('from “left” to the image')
    assert pixels() != before
    attention = pixels()
    page.select_option('#kind', 'loss')
    expect(shown).to_contain_text('loss of “left” grows')
    assert pixels() != attention
    # the image token that it needs most is the first one of its table
    row = data['words']['loss_increase'][left]
    name = data['image_tokens']['names'][row.index(max(row))]
    token = page.locator('#word button').first
    expect(token).to_have_text(name)
    token.click()
    expect(shown).to_contain_text(f'behind {name}, mean of the layers')
    page.select_option('#layer', '1')
    expect(shown).to_contain_text(f'layer {data["layers"][1]}, class token')
    # the keyboard
    page.locator('#answer button').nth(left).focus()
    page.keyboard.press('ArrowRight')
    expect(canvas).to_have_attribute('data-shown', f'word {left + 1}')
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    expect(canvas).to_have_attribute('data-shown', f'word {left + 2}')
    expect(page.locator('#answer [aria-pressed=true]')).to_have_count(1)
    expect(page.locator('#tokens canvas')).to_have_count(22)
    expect(page.locator('#answer')).to_contain_text(EVIL)
    expect(page.locator('#about')).to_contain_text(EVIL)
    assert page.title() == 'MiniGPT-4 explanation' and not problems
    page.close()


@pytest.mark.slow
def test_a_page_without_maps_in_a_browser(chromium, data, photo, tmp_path):
    from playwright.sync_api import expect

    data |= dict(regions='none', grid=None, layers=[], finished=False)
    for part in ('image_tokens', 'words'):
        names = [name for name in data[part] if 'maps' in name]
        data[part] |= dict.fromkeys([*names], None)
    data['image_tokens']['class_share'] = None
    data['words']['loss'][1] = None  # not finite
    write_page(data, photo, tmp_path / 'page.html')
    page = chromium.new_page()
    errors: list = []
    page.on('pageerror', lambda error: errors.append(error))
    page.goto(Path(tmp_path / 'page.html').absolute().as_uri())
    page.locator('#answer button').nth(1).click()
    expect(page.locator('#shown')).to_contain_text('There is no map.')
    expect(page.locator('#word')).to_contain_text('not finite')
    page.locator('#tokens button').nth(3).click()
    expect(page.locator('#shown')).to_contain_text('behind query 4')
    expect(page.locator('#tokens canvas')).to_have_count(0)
    assert not errors
    page.close()
