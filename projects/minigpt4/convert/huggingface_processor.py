# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write chat template, processor and generation settings of an export.

They use only classes of transformers, so that transformers alone builds the
same prompt from the same question and stops at the same token.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..prompts import (
    IMAGE_HERE,
    IMAGE_SLOT,
    PromptTemplate,
    Turn,
    render,
    tokenize,
    with_images,
)
from .huggingface_tokenizer import (
    SEGMENT,
    image_token,
    segmenting_tokenizer,
    stop_settings,
)

_CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set ns = namespace(opening=FIRST, system='', waiting=false) -%}
{%- for message in messages -%}
  {%- set parts = message['content'] or [] -%}
  {%- if parts is string -%}
    {%- set parts = [{'type': 'text', 'text': parts}] -%}
  {%- endif -%}
  {%- set here = namespace(body='', last='', text='', images=0, between=0) -%}
  {%- for part in parts -%}
    {%- if part['type'] in ('image', 'image_url') -%}
      {%- set here.images = here.images + 1 -%}
    {%- elif part['type'] != 'text' -%}
      {{- raise_exception('a message has a part of type ' ~ part['type'] \
~ '; this model takes text and image.') -}}
    {%- elif SEGMENT in part['text'] or IMAGE_TOKEN in part['text'] -%}
      {{- raise_exception('a text has ' ~ IMAGE_TOKEN ~ ' or U+001E, which \
mark images and segments; take it out.') -}}
    {%- elif part['text'] -%}
      {%- if here.images -%}{%- set here.between = 1 -%}{%- endif -%}
      {%- set here.text = here.text ~ part['text'] -%}
    {%- endif -%}
  {%- endfor -%}
  {%- if here.images and message['role'] != 'user' -%}
    {{- raise_exception('only a user message can have images.') -}}
  {%- endif -%}
  {%- if not here.between -%}
    {%- set parts = (parts | rejectattr('type', 'equalto', 'text') | list) \
+ (parts | selectattr('type', 'equalto', 'text') | list) -%}
  {%- endif -%}
  {%- if not here.text and message['role'] == 'user' and PROMPT -%}
    {%- set parts = parts + [{'type': 'text', 'text': PROMPT}] -%}
  {%- endif -%}
  {%- for part in parts -%}
    {%- if part['type'] != 'text' -%}
      {%- set here.body = here.body ~ (JOIN if here.last == 'text' else '') \
~ IMAGE -%}
      {%- set here.last = 'image' -%}
    {%- elif part['text'] -%}
      {%- set here.body = here.body ~ (JOIN if here.last else '') \
~ part['text'] -%}
      {%- set here.last = 'text' -%}
    {%- endif -%}
  {%- endfor -%}
  {%- if message['role'] == 'system' and loop.first -%}
    {%- set ns.system = here.body ~ SYSTEM_END -%}
    {%- set ns.opening = LATER -%}
  {%- elif message['role'] == 'user' and not ns.waiting -%}
    {{- SEGMENT ~ ns.system ~ ns.opening ~ here.body -}}
    {%- if add_generation_prompt or not loop.last -%}{{- ANSWER -}}\
{%- endif -%}
    {%- set ns.system = '' -%}
    {%- set ns.opening = LATER -%}
    {%- set ns.waiting = true -%}
  {%- elif message['role'] == 'assistant' and ns.waiting -%}
    {{- SEGMENT ~ here.body ~ END -}}
    {%- set ns.waiting = false -%}
  {%- else -%}
    {{- raise_exception('a message of ' ~ message['role'] ~ ' is where \
none can be; expected system once, then user and assistant in turn.') -}}
  {%- endif -%}
{%- endfor -%}
"""


def chat_template(
    template: PromptTemplate, image_token: str, prompt: str = ''
) -> str:
    """Return a prompt template in Jinja, for messages in OpenAI's format.

    It renders the same text as :func:`~minigpt4.prompts.render`. Images keep
    their position in the message; if no text follows an image, all images
    are moved to the front, as in training. A message without text asks
    ``prompt``. A system message is written before the first question, with
    the end of the template's own system line; by default there is none.

    Args:
        template: The prompt template.
        image_token: The token that stands for an image in the text.
        prompt: The question of a message without text.
    """
    image = template.image.replace(IMAGE_HERE, image_token + SEGMENT)
    has_end = template.end and template.system.endswith(template.end)
    variables = dict(
        FIRST=template.first,
        LATER=template.later,
        ANSWER=template.answer,
        END=template.end,
        SYSTEM_END=template.end if has_end else '',
        IMAGE=image,
        IMAGE_TOKEN=image_token,
        JOIN='' if template.image == IMAGE_HERE else ' ',
        PROMPT=prompt,
        SEGMENT=SEGMENT,
    )
    lines = [
        f'{{%- set {name} = {json.dumps(text)} -%}}\n'
        for name, text in variables.items()
    ]
    return ''.join(lines) + _CHAT_TEMPLATE


def write_processor(
    folder: Path,
    tokenizer: Any,
    template: PromptTemplate,
    prompt: str,
    image_size: int,
    normalization: tuple[Sequence[float], Sequence[float]],
    num_image_tokens: int,
    generation: Mapping[str, Any],
) -> int:
    """Write all files of an exported folder but weights and config.

    The processor is LLaVA's: it keeps its chat template when it is loaded,
    and writes one image token per patch. With one patch of the size of the
    image and ``num_image_tokens - 1`` additional tokens it writes the number
    that our model has.

    Args:
        folder: The folder.
        tokenizer: The LLM's tokenizer.
        template: The prompt template.
        prompt: The question of a message without text.
        image_size: Side of the images in pixels.
        normalization: Mean and standard deviation of the RGB channels, for
            images in 0..1.
        num_image_tokens: Tokens of one image.
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
    token = image_token(tokenizer)
    chat = chat_template(template, token, prompt)
    stops = '|'.join(_escape(s) for s in (*template.stop, tokenizer.eos_token))
    pad = tokenizer.eos_token  # padding must not look like an image
    _dump(folder / 'tokenizer.json', segmenting_tokenizer(tokenizer))
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
    pixels = dict(height=image_size, width=image_size)
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
            image_mean=normalization[0],
            image_std=normalization[1],
        ),
    )
    _dump(
        folder / 'processor_config.json',
        dict(
            processor_class='LlavaProcessor',
            image_token=token,
            patch_size=image_size,
            num_additional_image_tokens=num_image_tokens - 1,
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
        **stop_settings(tokenizer, template.stop),
    )
    _dump(folder / 'generation_config.json', {**settings, **generation})
    check_prompts(folder, tokenizer, template)
    return tokenizer.convert_tokens_to_ids(token)


def check_prompts(
    folder: Path, tokenizer: Any, template: PromptTemplate
) -> None:
    """Refuse a folder whose prompts differ from ours in any token.

    Args:
        folder: The exported folder.
        tokenizer: The LLM's tokenizer.
        template: The prompt template.

    Raises:
        ValueError: They differ.
    """
    from transformers import PreTrainedTokenizerFast

    exported = PreTrainedTokenizerFast.from_pretrained(folder)
    chat = (folder / 'chat_template.jinja').read_text('utf-8')
    token = image_token(tokenizer)
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
        expected = [
            exported.convert_tokens_to_ids(token) if i == IMAGE_SLOT else i
            for i in tokenize(render(turns, template), tokenizer).ids
        ]
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
