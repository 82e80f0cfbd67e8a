# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write a prompt template in Jinja, for messages in OpenAI's format.

Both kinds of templates begin each message in the same way: its parts are
joined to one text, with image slots. A fixed template then writes the texts of
its turns; the chat template of a tokenizer gets the messages, whose content is
that text.
"""

import json
from typing import Any

from ..prompts import IMAGE_HERE, ChatTemplate, PromptTemplate, Template
from ..prompts.chat_template import FIXED_DATE
from ..prompts.special_tokens import adds_bos
from .huggingface_tokenizer import SEGMENT

# Joins the parts of a message to here.body. The loops are over a variable of
# this name, by which vLLM recognises a template that takes lists of parts; it
# then leaves images where the message has them.
_JOIN_PARTS = """\
  {%- set content = message['content'] or [] -%}
  {%- if content is string -%}
    {%- set content = [{'type': 'text', 'text': content}] -%}
  {%- endif -%}
  {%- set here = namespace(body='', last='', text='', images=0, between=0) -%}
  {%- for part in content -%}
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
    {%- set content = (content | rejectattr('type', 'equalto', 'text') \
| list) + (content | selectattr('type', 'equalto', 'text') | list) -%}
  {%- endif -%}
  {%- if not here.text and message['role'] == 'user' and PROMPT -%}
    {%- set content = content + [{'type': 'text', 'text': PROMPT}] -%}
  {%- endif -%}
  {%- for part in content -%}
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
"""
_FIXED = (
    """\
{{- BOS -}}
{%- set ns = namespace(opening=FIRST, system='', waiting=false) -%}
{%- for message in messages -%}
"""
    + _JOIN_PARTS
    + """\
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
)
_CHAT = (
    """\
{%- set enable_thinking = false -%}
{%- set date_string = strftime_now('%d %b %Y') -%}
{%- set ns = namespace(messages=[], system='') -%}
{%- if SYSTEM is not none and (not messages or messages[0]['role'] != \
'system') -%}
  {%- set messages = [{'role': 'system', 'content': SYSTEM}] + messages -%}
{%- endif -%}
{%- for message in messages -%}
"""
    + _JOIN_PARTS
    + """\
  {%- if message['role'] == 'system' and loop.first and not HAS_SYSTEM -%}
    {%- set ns.system = here.body -%}
  {%- else -%}
    {%- if ns.system -%}
      {%- set here.body = ns.system ~ '\n\n' ~ here.body -%}
      {%- set ns.system = '' -%}
    {%- endif -%}
    {%- set ns.messages = ns.messages + [{'role': message['role'], \
'content': here.body}] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = ns.messages %}"""
)


def chat_template(
    template: Template,
    tokenizer: Any,
    image_token: str,
    prompt: str = '',
    system: str | None = None,
    image_prefix: str = '',
) -> str:
    """Return a prompt template in Jinja.

    It renders the same text as :func:`~minigpt4.prompts.render`. Images keep
    their position in the message; if no text follows an image, all images
    are moved to the front, as in training. A message without text asks
    ``prompt``.

    A fixed template writes a system message before the first question, with
    the end of the template's own system line; by default there is none. The
    chat template of a tokenizer gets ``system`` where no other is given.

    Args:
        template: The prompt template.
        tokenizer: The LLM's tokenizer.
        image_token: The token that stands for an image in the text.
        prompt: The question of a message without text.
        system: The system message of a model with the template ``'chat'``;
            None for that of the template.
        image_prefix: Tokens before each image token.
    """
    common = dict(
        IMAGE_TOKEN=image_token,
        JOIN='' if template.image == IMAGE_HERE else ' ',
        PROMPT=prompt,
        SEGMENT=SEGMENT,
    )
    if isinstance(template, ChatTemplate):
        image = template.image.replace(IMAGE_HERE, image_prefix + image_token)
        if not (system or template.system):
            system = None
        variables = dict(
            HAS_SYSTEM=template.has_system_role,
            IMAGE=image,
            SYSTEM=system,
        )
        body = FIXED_DATE + _CHAT + tokenizer.get_chat_template()
    else:
        assert isinstance(template, PromptTemplate)
        # the text behind an image is a segment of its own
        image = template.image.replace(
            IMAGE_HERE, image_prefix + image_token + SEGMENT
        )
        has_end = template.end and template.system.endswith(template.end)
        variables = dict(
            BOS=tokenizer.bos_token if adds_bos(tokenizer) else '',
            FIRST=template.first,
            LATER=template.later,
            ANSWER=template.answer,
            END=template.end,
            SYSTEM_END=template.end if has_end else '',
            IMAGE=image,
        )
        body = _FIXED
    lines = [
        f'{{%- set {name} = {_literal(value)} -%}}\n'
        for name, value in {**common, **variables}.items()
    ]
    return ''.join(lines) + body


def _literal(value: Any) -> str:
    """Write a value as Jinja reads it, whose constants are JSON's."""
    return 'none' if value is None else json.dumps(value)
