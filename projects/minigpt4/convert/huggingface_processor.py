# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write chat template, processor and generation settings of an export.

They use only classes of transformers, so that transformers alone builds the
same prompt from the same question and stops at the same token.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..prompts import (
    IMAGE_SLOT,
    Template,
    Turn,
    render,
    tokenize,
    with_images,
)
from .huggingface_chat_template import chat_template
from .huggingface_tokenizer import (
    exported_tokenizer,
    image_token,
    stop_settings,
)


class PromptSettings(NamedTuple):
    """How the questions of a model become prompts.

    Attributes:
        template: The prompt template.
        prompt: The question of a message without text.
        system: The system message that the model's config sets; None for
            that of the template.
        stop_ids: Ids of tokens that end an answer, besides the tokenizer's
            end token.
    """

    template: Template
    prompt: str = ''
    system: str | None = None
    stop_ids: tuple[int, ...] = ()


class ImageSettings(NamedTuple):
    """How images become pixels and tokens.

    Attributes:
        size: Side in pixels.
        mean: Mean of the RGB channels, for images in 0..1.
        std: Their standard deviation.
        num_tokens: Tokens of one image.
        prefix: Special tokens before them, which are added to the tokenizer.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]
    num_tokens: int
    prefix: Sequence[str] = ()


def write_processor(
    folder: Path,
    tokenizer: Any,
    prompts: PromptSettings,
    images: ImageSettings,
    generation: Mapping[str, Any],
) -> int:
    """Write all files of an exported folder but weights and config.

    The processor is LLaVA's: it keeps its chat template when it is loaded,
    and writes one image token per patch. With one patch of the size of the
    image and ``num_tokens - 1`` additional tokens it writes the number that
    our model has.

    Args:
        folder: The folder.
        tokenizer: The LLM's tokenizer.
        prompts: How questions become prompts.
        images: How images become pixels and tokens.
        generation: Sampling parameters; the default is greedy decoding.

    Returns:
        The id of the image token.

    Raises:
        ValueError: The tokenizer cannot produce our token ids.
    """
    backend = getattr(tokenizer, 'backend_tokenizer', None)
    if backend is None:
        raise ValueError(
            f'the tokenizer of {tokenizer.name_or_path} is a '
            f'{type(tokenizer).__name__}, which has no tokenizer.json; '
            'expected one of the tokenizers library.'
        )
    if tokenizer.eos_token is None:
        raise ValueError(
            f'the tokenizer of {tokenizer.name_or_path} has no end token, '
            'which padding and stopping need; name one as its eos_token.'
        )
    template = prompts.template
    token = image_token(tokenizer, template, prompts.stop_ids)
    chat = chat_template(
        template,
        tokenizer,
        token,
        prompts.prompt,
        prompts.system,
        ''.join(images.prefix),
    )
    stop_tokens = tokenizer.convert_ids_to_tokens([*prompts.stop_ids])
    stops = '|'.join(
        _escape(text)
        for text in dict.fromkeys(
            (*template.stop, tokenizer.eos_token, *stop_tokens)
        )
    )
    pad = tokenizer.eos_token  # padding must not look like an image
    _dump(
        folder / 'tokenizer.json',
        exported_tokenizer(tokenizer, template, images.prefix),
    )
    _dump(
        folder / 'tokenizer_config.json',
        dict(
            tokenizer_class='PreTrainedTokenizerFast',
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            unk_token=tokenizer.unk_token,
            pad_token=pad,
            padding_side='left',
            clean_up_tokenization_spaces=False,
            model_max_length=tokenizer.model_max_length,
            model_input_names=['input_ids', 'attention_mask'],
            # by which "transformers serve" finds the end of an answer
            response_template=dict(
                defaults=dict(role='assistant'),
                start_anchor_pattern='.+',
                fields=dict(
                    content=dict(
                        close_pattern=rf'\s*(?:{stops}).*', content='text'
                    )
                ),
            ),
        ),
    )
    pixels = dict(height=images.size, width=images.size)
    _dump(
        folder / 'preprocessor_config.json',
        dict(
            image_processor_type='BlipImageProcessor',
            processor_class='LlavaProcessor',
            do_convert_rgb=True,
            do_resize=True,
            size=pixels,
            resample=3,  # bicubic
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=images.mean,
            image_std=images.std,
        ),
    )
    _dump(
        folder / 'processor_config.json',
        dict(
            processor_class='LlavaProcessor',
            image_token=token,
            patch_size=images.size,
            num_additional_image_tokens=images.num_tokens - 1,
            vision_feature_select_strategy='full',
        ),
    )
    (folder / 'chat_template.jinja').write_text(chat, encoding='utf-8')
    # the only one that transformers 4.49 reads
    _dump(folder / 'chat_template.json', dict(chat_template=chat))
    settings = dict(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.convert_tokens_to_ids(pad),
        **stop_settings(tokenizer, template.stop, prompts.stop_ids),
    )
    if images.prefix:
        first = len(tokenizer)  # they follow all others
        settings['suppress_tokens'] = [
            first + i for i in range(len(images.prefix))
        ]
    _dump(folder / 'generation_config.json', {**settings, **generation})
    _check_prompts(folder, tokenizer, prompts, [*images.prefix, token])
    return tokenizer.convert_tokens_to_ids(token)


def _check_prompts(
    folder: Path,
    tokenizer: Any,
    prompts: PromptSettings,
    slot: Sequence[str],
) -> None:
    """Refuse a folder whose prompts differ from ours in any token.

    Args:
        folder: The exported folder.
        tokenizer: The LLM's tokenizer.
        prompts: How questions become prompts.
        slot: The tokens of an image slot before the processor expands it.

    Raises:
        ValueError: They differ.
    """
    from transformers import PreTrainedTokenizerFast

    exported = PreTrainedTokenizerFast.from_pretrained(folder)
    chat = (folder / 'chat_template.jinja').read_text('utf-8')
    template, system = prompts.template, None
    if template.writes_special_tokens:
        system = prompts.system  # that of a fixed template is for chats
    texts = ('Is it a cat?', 'Yes, two.', '  What\ncolour, é?', 'Grey', 'Why')
    for n_images in range(3):
        images = [dict(type='image')] * n_images
        messages: list[dict] = [
            dict(role='user' if i % 2 == 0 else 'assistant', content=[])
            for i in range(len(texts))
        ]
        for message, text in zip(messages, texts, strict=True):
            message['content'] = [dict(type='text', text=text)]
        messages[0]['content'] = [*images, *messages[0]['content']]
        text = exported.apply_chat_template(
            messages,
            chat_template=chat,
            add_generation_prompt=True,
            tokenize=False,
        )
        ids = exported(text, add_special_tokens=False).input_ids
        first = with_images(texts[0], n_images, template)
        turns = [Turn(first, texts[1]), Turn(*texts[2:4]), Turn(texts[4])]
        expected: list[int] = []
        for i in tokenize(render(turns, template, system), tokenizer).ids:
            expected += (
                exported.convert_tokens_to_ids([*slot])
                if i == IMAGE_SLOT
                else [i]
            )
        if ids != expected:
            raise ValueError(
                f'the tokenizer of {tokenizer.name_or_path} makes another '
                f'prompt in a Hugging Face folder ({ids[:12]} ... instead of '
                f'{expected[:12]} ...); serve this model with minigpt4 itself.'
            )


def _escape(text: str) -> str:
    """Escape a text for a regular expression of Python and of Rust."""
    return ''.join(c if c.isalnum() else f'\\{c}' for c in text)


def _dump(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON without escaping characters beyond ASCII."""
    path.write_text(
        json.dumps(data, indent=1, ensure_ascii=False) + '\n', encoding='utf-8'
    )
