# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The exported chat template of each family gives our token ids."""

import json
import shutil
from pathlib import Path

import pytest
from tests.chat_families import FAMILIES, family_tokenizer, new_tokenizer
from transformers import AutoProcessor

from minigpt4.convert.huggingface_processor import (
    ImageSettings,
    PromptSettings,
    write_processor,
)
from minigpt4.prompts import (
    IMAGE_SLOT,
    Turn,
    get_template,
    render,
    tokenize,
    with_images,
)
from minigpt4.weights.shipped import NANO_FOLDER as SHIPPED

SCENE = Path(__file__).parents[2] / 'demo' / 'scene.png'
IMAGES = ImageSettings(28, (0.5,) * 3, (0.5,) * 3, 3)
CONVERSATIONS = {
    'image': [('What is it?', 1)],
    'text': [('  Who are\nyou? ', 0)],
    'turns': [('What is it?', 1), (' A cat.\n', None), ('Sure?', 0)],
    'images': [('Compare.', 3), ('No.', None), ('And this', 1)],
}


def export(folder, tokenizer, **settings):
    """Write a processor; returns it with the prompt template."""
    template = get_template('chat', tokenizer)
    prompts = PromptSettings(
        template, 'Describe.', stop_ids=template.stop_ids, **settings
    )
    write_processor(folder, tokenizer, prompts, IMAGES, {})
    # for AutoTokenizer of older transformers
    shutil.copy(SHIPPED / 'llm' / 'config.json', folder)
    return AutoProcessor.from_pretrained(folder), template


def ask(processor, conversation, system=None):
    """Return the ids of transformers."""
    messages = [] if system is None else [dict(role='system', content=system)]
    for text, images in conversation:
        parts = [dict(type='image', path=str(SCENE))] * (images or 0)
        role = 'assistant' if images is None else 'user'
        content = [*parts, dict(type='text', text=text)]
        messages.append(dict(role=role, content=content))
    return processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True
    )['input_ids'][0]


def our_ids(conversation, tokenizer, template, image, system=None):
    """Return our ids, with three tokens for each image."""
    questions = [
        with_images(text, images, template)
        for text, images in conversation
        if images is not None
    ]
    answers = [text for text, images in conversation if images is None]
    answers += [None] * (len(questions) - len(answers))
    turns = [Turn(*texts) for texts in zip(questions, answers, strict=True)]
    ids = []
    for i in tokenize(render(turns, template, system), tokenizer).ids:
        ids += [image] * 3 if i == IMAGE_SLOT else [i]
    return ids


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_ids_equal_ours(family, tmp_path):
    tokenizer = family_tokenizer(family)
    processor, template = export(tmp_path, tokenizer)
    image = processor.image_token_id
    for conversation in CONVERSATIONS.values():
        for system in (None, 'Be brief.'):
            expected = our_ids(
                conversation, tokenizer, template, image, system
            )
            assert ask(processor, conversation, system) == expected


@pytest.mark.parametrize('family', ['smollm2', 'qwen2_5', 'gemma'])
@pytest.mark.parametrize('system', ['You see images.', ''])
def test_system_message_of_the_config(family, system, tmp_path):
    """It is written unless the conversation has one."""
    tokenizer = family_tokenizer(family)
    processor, template = export(tmp_path, tokenizer, system=system)
    image = processor.image_token_id
    conversation = CONVERSATIONS['turns']
    for given in (None, 'Be brief.'):
        expected = our_ids(
            conversation,
            tokenizer,
            template,
            image,
            system if given is None else given,
        )
        assert ask(processor, conversation, given) == expected


@pytest.mark.parametrize('family', sorted(FAMILIES))
def test_image_token_and_stop_ids(family, tmp_path):
    """Neither the template nor the LLM writes the image token."""
    tokenizer = family_tokenizer(family)
    processor, template = export(tmp_path, tokenizer)
    settings = json.loads((tmp_path / 'generation_config.json').read_text())
    ends = settings['eos_token_id']
    assert {tokenizer.eos_token_id, *template.stop_ids} <= {*ends}
    assert processor.image_token_id not in ends
    written = ask(processor, CONVERSATIONS['text'])
    assert processor.image_token_id not in written


def test_date_is_that_of_our_prompts(tmp_path):
    """Ids of a prompt must not depend on the day."""
    tokenizer = new_tokenizer('qwen2_5')
    tokenizer.chat_template = (
        "{{ strftime_now('%A, %d %B %Y') ~ (date_string or '') }}"
        + tokenizer.chat_template
    )
    processor, template = export(tmp_path, tokenizer)
    conversation = CONVERSATIONS['image']
    image = processor.image_token_id
    found = ask(processor, conversation)
    assert found == our_ids(conversation, tokenizer, template, image)
    assert 'Friday, 26 July 202426 Jul 2024' in processor.decode(found)


def test_thinking_is_off(tmp_path):
    processor, _ = export(tmp_path, family_tokenizer('qwen3'))
    text = processor.decode(ask(processor, CONVERSATIONS['image']))
    assert text.endswith('<think>\n\n</think>\n\n')


def test_tokenizer_without_a_free_special_token_is_refused(tmp_path):
    tokenizer = new_tokenizer('smollm2')
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'<|im_end|>'", "'<|im_end|>' + ('<|endoftext|>' if false else '')"
    )
    with pytest.raises(ValueError, match='no special token but those that'):
        export(tmp_path, tokenizer)
