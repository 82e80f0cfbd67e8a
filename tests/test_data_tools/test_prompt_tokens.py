# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import pytest

from minigpt4.data_tools.prompt_tokens import PromptTokens
from minigpt4.prompts import Turn

NANO = 'minigpt-4_nano_caption'
STAGE1 = 'configs/minigpt4/stage1_nano.py'
STAGE2 = 'configs/minigpt4/stage2_nano.py'


@pytest.fixture(scope='module')
def nano():
    return PromptTokens(NANO)


def shown(prompts, answer, question='', images=1):
    prompt = prompts.prompt('7', [Turn(question, answer)], images)
    return prompt, prompts.tokens(prompt)


def text_of(tokens, **flags):
    return ''.join(
        token.text
        for token in tokens
        if all(getattr(token, k) == v for k, v in flags.items())
    )


def test_the_answer_and_its_end_are_supervised(nano):
    prompt, tokens = shown(nano, 'There is a red star.')
    assert text_of(tokens, supervised=True).strip() == (
        'There is a red star.###'
    )
    assert '###Human:' in text_of(tokens, supervised=False)
    assert nano.prompt('1', [Turn('', 'a')], 1).length < prompt.length
    (slot,) = [token for token in tokens if token.id is None]
    assert slot.positions == nano.num_image_tokens == 22
    assert prompt.length == sum(token.positions for token in tokens)
    assert prompt.fits and not prompt.truncated


def test_the_question_of_the_model_or_of_the_record(nano):
    _, tokens = shown(nano, 'a star')
    assert 'Describe this image in detail.' in text_of(tokens)
    _, tokens = shown(nano, 'a star', 'What is it?')
    assert 'What is it?' in text_of(tokens)
    assert 'Describe this' not in text_of(tokens)


def test_transforms_of_stage_1():
    _, tokens = shown(PromptTokens(STAGE1), 'A Red, DOG!')
    assert text_of(tokens, supervised=True).strip().startswith('a red, dog')


def test_a_long_answer_is_cut():
    prompts = PromptTokens(STAGE2)
    prompt, tokens = shown(prompts, 'red star ' * 300)
    assert prompt.truncated == 1
    assert sum(token.supervised for token in tokens) == 160
    assert prompt.answer_lengths[0] > 160
    assert sum(token.cut for token in tokens) == prompt.answer_lengths[0] - 160
    cut = text_of(tokens, supervised=True) + text_of(tokens, cut=True)
    assert cut.strip() == 'red star ' * 299 + 'red star ###' or (
        cut.replace(' ', '') == 'redstar' * 300 + '###'
    )


def test_a_prompt_that_does_not_fit(nano):
    prompt, _ = shown(nano, 'x ' * 3000)
    assert not prompt.fits


@pytest.mark.parametrize('text', ['قطة على سجادة', '一只狗 🐕', 'naïve é'])
def test_characters_of_several_tokens(nano, text):
    _, tokens = shown(nano, text)
    found = text_of(tokens, supervised=True)
    assert found.strip().removesuffix('###').strip() == text


def test_a_wrong_number_of_images(nano):
    with pytest.raises(ValueError, match='2 image slots'):
        shown(nano, 'a', '<ImageHere> or <ImageHere>?')


def test_unknown_models(tmp_path):
    with pytest.raises(ValueError, match='minigpt-4_nano_caption'):
        PromptTokens('minigpt-4_nano_captain')
    config = tmp_path / 'a.py'
    config.write_text('lr = 1')
    with pytest.raises(ValueError, match='has no model'):
        PromptTokens(str(config))
