# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The special tokens of a tokenizer, and where a text has them."""

import re
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary


def _once_per_tokenizer(function: Callable[[Any], Any]) -> Callable:
    """Store the result of a function for each tokenizer."""
    results: WeakKeyDictionary = WeakKeyDictionary()

    def stored(tokenizer: Any) -> Any:
        if tokenizer not in results:
            results[tokenizer] = function(tokenizer)
        return results[tokenizer]

    return stored


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the texts of all special tokens, the longest first."""
    tokens = {*getattr(tokenizer, 'all_special_tokens', ())}
    tokens |= {
        str(token)
        for token in getattr(tokenizer, 'added_tokens_decoder', {}).values()
        if token.special
    }
    return sorted(filter(None, tokens), key=lambda text: (-len(text), text))


@_once_per_tokenizer
def special_token_pattern(tokenizer: Any) -> re.Pattern:
    """Return a pattern that matches a special token."""
    escaped = map(re.escape, special_tokens(tokenizer))
    return re.compile('|'.join(escaped) or '(?!)')


@_once_per_tokenizer
def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself begins a text with its BOS token.

    Some have a BOS token that does not: that of SmolLM2, ``<|im_start|>``,
    begins a message.
    """
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer('a').input_ids)[:1] == [bos]
