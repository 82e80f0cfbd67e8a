# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Chat template and processor of an export give our token ids and pixels."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from minigpt4.convert.huggingface_processor import (
    ImageSettings,
    PromptSettings,
    write_processor,
)
from minigpt4.convert.huggingface_tokenizer import SEGMENT
from minigpt4.images.read import to_tensor
from minigpt4.prompts import (
    IMAGE_SLOT,
    TEMPLATES,
    Segment,
    Turn,
    get_template,
    render,
    tokenize,
    with_images,
)
from minigpt4.weights.shipped import NANO_FOLDER as SHIPPED

SCENE = Path(__file__).parents[2] / 'demo' / 'scene.png'
IMAGES = ImageSettings(28, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), 3)
CONVERSATIONS = {
    'image': [('q?', 1)],
    'text': [('Who are you?', 0)],
    'turns': [('  What\nis it?', 1), ('A cat.', None), ('Sure?', 0)],
    'images': [('Compare.', 3), ('No.', None), ('And this', 1)],
}


def make_message(text, *images, role='user'):
    parts = [dict(type='image', path=str(image)) for image in images]
    return dict(role=role, content=[*parts, dict(type='text', text=text)])


def make_tokenizer(name, request):
    if name == 'nano':
        return AutoTokenizer.from_pretrained(SHIPPED / 'llm')
    if name == 'legacy':  # the normalizer of transformers 4 and Vicuna v0
        import tokenizers

        tokenizer = AutoTokenizer.from_pretrained(SHIPPED / 'llm')
        backend = tokenizer.backend_tokenizer
        backend.normalizer = tokenizers.normalizers.Sequence(
            [
                tokenizers.normalizers.Prepend('▁'),
                tokenizers.normalizers.Replace(' ', '▁'),
            ]
        )
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([])
        return tokenizer
    return request.getfixturevalue(f'{name}_tokenizer')


@pytest.mark.parametrize(
    ('tokenizer', 'template'),
    [
        (tokenizer, template)
        for tokenizer in ('tiny', 'nano', 'legacy', 'llama')
        for template in TEMPLATES
        # 32,000 tokens take seconds, and bare has no stop string
        if (tokenizer, template) != ('llama', 'bare')
    ],
)
def test_chat_template_renders_our_token_ids(
    tokenizer, template, request, tmp_path
):
    tokenizer = make_tokenizer(tokenizer, request)
    template = get_template(template)
    image = write_processor(
        tmp_path, tokenizer, PromptSettings(template, 'Describe.'), IMAGES, {}
    )
    shutil.copy(
        SHIPPED / 'llm' / 'config.json', tmp_path
    )  # for AutoTokenizer of older transformers
    theirs = AutoProcessor.from_pretrained(tmp_path)
    assert type(theirs).__name__ == 'LlavaProcessor'
    for texts in CONVERSATIONS.values():
        messages = [
            make_message(
                text,
                *[SCENE] * (images or 0),
                role='assistant' if images is None else 'user',
            )
            for text, images in texts
        ]
        found = theirs.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )['input_ids'][0]
        questions = [
            with_images(text, images, template)
            for text, images in texts
            if images is not None
        ]
        answers = [text for text, images in texts if images is None]
        turns = [
            Turn(question, answers[i] if i < len(answers) else None)
            for i, question in enumerate(questions)
        ]
        expected = []
        for i in tokenize(render(turns, template), tokenizer).ids:
            expected += [image] * 3 if i == IMAGE_SLOT else [i]
        assert found == expected, texts


@pytest.mark.parametrize('template', ['vicuna_v0', 'llama2'])
def test_system_line(tiny_tokenizer, template, tmp_path):
    """The system message is the start of the first segment."""
    template = get_template(template)
    write_processor(
        tmp_path, tiny_tokenizer, PromptSettings(template), IMAGES, {}
    )
    shutil.copy(SHIPPED / 'llm' / 'config.json', tmp_path)
    theirs = AutoProcessor.from_pretrained(tmp_path)
    line = template.system.removesuffix('###')
    found = theirs.apply_chat_template(
        [dict(role='system', content=[dict(type='text', text=line)])]
        + [make_message('what', SCENE)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )['input_ids'][0]
    opening = template.system + template.later + '<Img>'
    expected = tokenize(
        [
            Segment(opening),
            Segment(None),
            Segment('</Img> what' + template.answer),
        ],
        tiny_tokenizer,
    ).ids
    slot = expected.index(IMAGE_SLOT)
    assert found == expected[:slot] + [0] * 3 + expected[slot + 1 :]


def test_images_keep_their_position_in_the_make_message(nano_folder):
    processor = AutoProcessor.from_pretrained(nano_folder)

    def body(*parts):
        parts = [
            dict(type='text', text=part) if part else dict(type='image')
            for part in parts
        ]
        text = processor.apply_chat_template(
            [dict(role='user', content=parts)], add_generation_prompt=True
        )
        text = text.replace('<unk>' + SEGMENT, '*')
        return text.removeprefix(f'<s>{SEGMENT}###Human: ').removesuffix(
            ' ###Assistant: '
        )

    assert body('a', None, 'b') == 'a <Img>*</Img> b'
    assert body('a', None) == '<Img>*</Img> a'  # moved, as in training
    assert body(None, None, 'a') == '<Img>*</Img><Img>*</Img> a'
    assert body(None) == '<Img>*</Img> Describe this image in detail.'


@pytest.mark.parametrize(
    ('messages', 'error'),
    [
        ([make_message('what is <unk>?')], 'a text has <unk>'),
        ([make_message('a'), make_message('b')], 'is where none can be'),
        ([make_message('a', role='assistant')], 'is where none can be'),
        (
            [dict(role='user', content=[dict(type='video', path='x')])],
            'part of type video',
        ),
    ],
)
def test_chat_template_refuses_invalid_messages(nano_folder, messages, error):
    processor = AutoProcessor.from_pretrained(nano_folder)
    with pytest.raises(Exception, match=error):
        processor.apply_chat_template(messages)


def test_pixels_equal_ours(nano_folder):
    """With Pillow they differ by the rounding of one product."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (333, 500, 3), generator=generator)
    for backend, tolerance in (('pil', 1e-6), ('torchvision', 1 / 255)):
        processor = AutoProcessor.from_pretrained(
            nano_folder, backend=backend
        ).image_processor
        std = torch.tensor(processor.image_std).view(3, 1, 1)
        mean = torch.tensor(processor.image_mean).view(3, 1, 1)
        for image in (
            Image.open(SCENE).convert('RGB'),
            Image.fromarray(noise.byte().numpy()),
        ):
            pixels = processor(image, return_tensors='pt').pixel_values[0]
            expected = (to_tensor(image, 64).float() / 255 - mean) / std
            worst = ((pixels - expected) * std).abs().max()
            assert worst <= tolerance * 1.001, backend
