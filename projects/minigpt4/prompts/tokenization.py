# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Encode texts and rendered conversations as token ids.

Every text of the package is tokenised here: prompts, captions and chats. A
special token of the tokenizer becomes its id only where the template wrote
it; in a text of a user it is encoded as plain text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .context_encoder import context_encoder
from .conversation import Segment
from .special_tokens import adds_bos, special_token_pattern
from .text_validation import check_characters

IMAGE_SLOT = -1  # stands for one image, which takes several positions


@dataclass
class TokenizedPrompt:
    """A tokenised conversation.

    Attributes:
        ids: Token ids; ``IMAGE_SLOT`` stands for one image.
        supervised: For each id, whether the loss includes it.
        truncated: Number of answers that were cut and lost their end symbol.
    """

    ids: list[int] = field(default_factory=list)
    supervised: list[bool] = field(default_factory=list)
    truncated: int = 0

    @property
    def num_images(self) -> int:
        """Number of image slots."""
        return self.ids.count(IMAGE_SLOT)


def tokenize(
    segments: Sequence[Segment],
    tokenizer: Any,
    max_text_length: int | None = None,
) -> TokenizedPrompt:
    """Tokenise segments to a prompt.

    It begins with BOS where the tokenizer itself adds it, except in the
    prompts of a tokenizer's own chat template, which writes it.

    Args:
        segments: Output of :func:`~minigpt4.prompts.conversation.render`.
        tokenizer: A Hugging Face tokenizer.
        max_text_length: Largest number of tokens of an answer with its end
            symbol. A longer answer is cut and loses the end symbol, as in
            the official code. None for no limit.

    Raises:
        ValueError: A text contains a lone surrogate.

    Source: MiniGPT-4 ``models/minigpt_base.py`` @ d94738a, where BOS is added
    once at the start and each segment is tokenised without special tokens.
    """
    prompt = TokenizedPrompt()
    is_complete = bool(segments) and segments[0].context is not None
    if not is_complete and adds_bos(tokenizer):
        prompt.ids.append(tokenizer.bos_token_id)
        prompt.supervised.append(False)
    for segment in segments:
        if segment.text is None:
            ids = [IMAGE_SLOT]
        else:
            ids = list(segment.ids) or encode_segment(tokenizer, segment)
        if (
            segment.supervised
            and max_text_length
            and (len(ids) > max_text_length)
        ):
            ids = ids[:max_text_length]
            prompt.truncated += 1
        prompt.ids += ids
        prompt.supervised += [segment.supervised] * len(ids)
    return prompt


def encode(
    tokenizer: Any, text: str, template_spans: Sequence[tuple[int, int]] = ()
) -> list[int]:
    """Encode a text without a beginning-of-text token.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The text.
        template_spans: ``(start, end)`` of each span of the text that the
            template wrote, where special tokens become their ids.

    Raises:
        ValueError: The text contains a lone surrogate.
    """
    check_characters(text, 'the text')
    ids: list[int] = []
    start = 0
    for offset, token in _special_tokens(tokenizer, text, template_spans):
        ids += _encode_plain(tokenizer, text[start:offset])
        ids.append(tokenizer.convert_tokens_to_ids(token))
        start = offset + len(token)
    return ids + _encode_plain(tokenizer, text[start:])


def encode_segment(tokenizer: Any, segment: Segment) -> list[int]:
    """Encode the text of a segment; known ids are not used.

    Args:
        tokenizer: A Hugging Face tokenizer.
        segment: The segment, with a text.

    Raises:
        ValueError: The text contains a lone surrogate.
    """
    text, spans = segment.text or '', segment.template_spans
    if spans is None:
        spans = ((0, len(text)),)
    if segment.context is None:
        return encode(tokenizer, text, spans)
    check_characters(text, 'the text')
    return context_encoder(tokenizer).encode(text, spans, segment.context)


def encode_answer(tokenizer: Any, text: str, end: str) -> list[int]:
    """Encode an answer and the end symbol of a fixed template.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The answer; special tokens in it are plain text.
        end: The end symbol, which may be a special token.

    Raises:
        ValueError: The answer contains a lone surrogate.
    """
    complete = text + end
    return encode(tokenizer, complete, [(len(text), len(complete))])


def _encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Encode a text in which special tokens are plain text."""
    if not text:
        return []
    # verbose: transformers would warn of a long text; it has a clear error
    options = dict(add_special_tokens=False, verbose=False)
    # load_tokenizer sets it to True; other tokenizers need it in each call
    if getattr(tokenizer, 'split_special_tokens', None) is False:
        options['split_special_tokens'] = True
    return list(tokenizer(text, **options).input_ids)


def _special_tokens(
    tokenizer: Any, text: str, spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, str]]:
    """Yield offset and text of each special token in the spans."""
    pattern = special_token_pattern(tokenizer)
    for start, end in spans:
        for match in pattern.finditer(text, start, end):
            yield match.start(), match[0]
