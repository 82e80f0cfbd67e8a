# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Encode a piece of a prompt with the token ids that it has in the prompt.

A tokenizer may encode a text differently at its start, after a special token
and elsewhere: with or without a space before it, or without the white space
after a special token. So a piece is encoded together with the text before it,
whose ids are dropped.

In the text of a user, special tokens have to be plain text, in that of a
template not. In a copy of the tokenizer, a template's special tokens have
other names, which no user writes; their own names are plain text there.
"""

import json
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from .frame import IMAGE_HERE
from .special_tokens import special_token_pattern, special_tokens

# control characters around the new names, which no text may contain
_START, _END = '\x02', '\x03'
_SLOT = f'{_START}slot{_END}'  # stands for an image before a text

_ENCODERS: WeakKeyDictionary = WeakKeyDictionary()


class ContextEncoder:
    """Encodes pieces of prompts.

    Args:
        tokenizer: A fast tokenizer of transformers.

    Raises:
        ValueError: It is not a fast tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        # imported here: commands that need no tokenizer start faster
        from tokenizers import AddedToken, Tokenizer

        self._pattern = special_token_pattern(tokenizer)
        try:
            content = json.loads(tokenizer.backend_tokenizer.to_str())
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ValueError(
                'the tokenizer in '
                f'{getattr(tokenizer, "name_or_path", "memory")} does not run '
                f'in the tokenizers library ({type(error).__name__}), which '
                "prompt_template='chat' needs; give a folder with a "
                'tokenizer.json.'
            ) from error
        content['post_processor'] = None  # it may change offsets
        content['truncation'] = content['padding'] = None
        self._backend = Tokenizer.from_str(json.dumps(content))
        self._backend.encode_special_tokens = True
        self._added: set[Any] = {*self._backend.get_added_tokens_decoder()}
        known = {
            str(token): token
            for token in tokenizer.added_tokens_decoder.values()
        }
        self._names = {}
        tokens = [AddedToken(_SLOT, special=False, normalized=False)]
        for i, text in enumerate(special_tokens(tokenizer)):
            self._names[text] = f'{_START}{i}{_END}'
            token = known.get(text)
            tokens.append(
                AddedToken(
                    self._names[text],
                    special=False,
                    normalized=False,
                    lstrip=token is not None and token.lstrip,
                    rstrip=token is not None and token.rstrip,
                )
            )
        self._backend.add_tokens(tokens)
        self._ids: dict[Any, int] = {
            self._backend.token_to_id(name): (
                tokenizer.convert_tokens_to_ids(text)
            )
            for text, name in self._names.items()
        }
        self._slot_id: Any = self._backend.token_to_id(_SLOT)
        self._added |= {*self._ids, self._slot_id}
        # ids that no text of a user may get; any character may be unknown
        self._reserved = {*self._ids.values()} - {
            getattr(tokenizer, 'unk_token_id', None)
        }

    def encode(
        self,
        text: str,
        template_spans: Sequence[tuple[int, int]],
        context: str,
    ) -> list[int]:
        """Return the token ids of a piece of a prompt.

        Args:
            text: The piece.
            template_spans: ``(start, end)`` of each span of it that the
                template wrote, where special tokens become their ids.
            context: The template's text before it; ``<ImageHere>`` is an
                image slot. Empty at the start of a prompt.

        Raises:
            ValueError: The text contains a control character that marks
                special tokens.
        """
        if _START in text:
            raise ValueError(
                'the text contains a control character (U+0002); remove it.'
            )
        if not text:
            return []
        before = self._rename(context, [(0, len(context))]).replace(
            IMAGE_HERE, _SLOT
        )
        renamed = self._rename(text, template_spans)
        ids = self._split_off(before, renamed)
        if not self._reserved.isdisjoint(ids):
            # merges of the vocabulary lead to a special token
            broken = self._pattern.sub(
                lambda match: f'{match[0][0]}{_SLOT}{match[0][1:]}', renamed
            )
            ids = self._split_off(before, broken)
        return [self._ids.get(i, i) for i in ids if i != self._slot_id]

    def _rename(self, text: str, spans: Sequence[tuple[int, int]]) -> str:
        """Rename the special tokens in some spans of a text."""
        pieces, start = [], 0
        for begin, end in spans:
            for match in self._pattern.finditer(text, begin, end):
                pieces += [text[start : match.start()], self._names[match[0]]]
                start = match.end()
        return ''.join((*pieces, text[start:]))

    def _split_off(self, before: str, text: str) -> list[int]:
        """Return the ids of a text that follows another one."""
        encoding = self._backend.encode(
            before + text, add_special_tokens=False
        )
        boundary, ids = len(before), encoding.ids
        for i, (start, end) in enumerate(encoding.offsets):
            if start >= boundary:
                return ids[i:]
            # the white space behind an added token may belong to it
            if end > boundary and ids[i] not in self._added:
                # the token holds text of both
                return self._split_off(_SLOT, text)
        return []


def context_encoder(tokenizer: Any) -> ContextEncoder:
    """Return the encoder of a tokenizer, which is built once.

    Raises:
        ValueError: It is not a fast tokenizer.
    """
    if tokenizer not in _ENCODERS:
        _ENCODERS[tokenizer] = ContextEncoder(tokenizer)
    return _ENCODERS[tokenizer]
