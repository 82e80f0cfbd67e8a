# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""From text to token ids: what is a control token and what is letters.

Between :mod:`~minigpt4.prompts.text_checks` (which texts are accepted) and
the model: the prompts, the models and the chat all encode here.
"""

import re
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from .text_checks import check_characters

# control symbols of each tokenizer that was used
_SYMBOLS: WeakKeyDictionary = WeakKeyDictionary()


def encode(
    tokenizer, text: str, template_spans: Sequence[tuple[int, int]] = ()
) -> list[int]:
    """Token ids of a text, without a beginning-of-text token.

    Every text is tokenised here. A special token of the tokenizer becomes its
    id only where the template wrote it; anywhere else it is letters.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The text.
        template_spans: ``(start, end)`` of each part that the template wrote.

    Raises:
        ValueError: The text holds a lone surrogate.
    """
    check_characters(text, 'the text')
    ids: list[int] = []
    start = 0
    for at, symbol in _template_symbols(tokenizer, text, template_spans):
        ids += _encode_letters(tokenizer, text[start:at])
        ids.append(tokenizer.convert_tokens_to_ids(symbol))
        start = at + len(symbol)
    return ids + _encode_letters(tokenizer, text[start:])


def encode_answer(tokenizer, text: str, end: str) -> list[int]:
    """Token ids of an answer and the end symbol of a template.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The answer, whose letters never become control tokens.
        end: The end symbol, which may be one.

    Raises:
        ValueError: The answer holds a lone surrogate.
    """
    whole = text + end
    return encode(tokenizer, whole, [(len(text), len(whole))])


def _encode_letters(tokenizer, text: str) -> list[int]:
    if not text:
        return []
    options = dict(add_special_tokens=False)
    # load_tokenizer sets it to True; other tokenizers have to be asked
    if getattr(tokenizer, 'split_special_tokens', None) is False:
        options['split_special_tokens'] = True
    return list(tokenizer(text, **options).input_ids)


def _template_symbols(
    tokenizer, text: str, spans: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, str]]:
    """Place and name of each control symbol that the template wrote."""
    try:
        pattern = _SYMBOLS[tokenizer]
    except KeyError:
        symbols = {*getattr(tokenizer, 'all_special_tokens', ())}
        symbols |= {
            str(token)
            for token in getattr(
                tokenizer, 'added_tokens_decoder', {}
            ).values()
            if token.special
        }
        longest = sorted(filter(None, symbols), key=len, reverse=True)
        pattern = re.compile('|'.join(map(re.escape, longest)) or '(?!)')
        _SYMBOLS[tokenizer] = pattern
    for start, end in spans:
        for found in pattern.finditer(text, start, end):
            yield found.start(), found[0]
