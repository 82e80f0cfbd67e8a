# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Incremental detokenization with stop strings."""

from collections.abc import Sequence
from typing import Any

from ..deprecated import renamed

_REPLACEMENT = '\ufffd'  # what a tokenizer gives for an incomplete character
_MAX_WINDOW = 24  # tokens that are decoded again with each new one
_MIN_WINDOW = 6  # tokens of the window that remain when it moves


class Detokenizer:
    """The text of one answer while it is generated.

    Text that was returned never changes: an incomplete character waits for
    its other bytes, a possible prefix of a stop string for the next tokens,
    and blanks for text behind them. Only a window of the last tokens is
    decoded, so the cost of a token does not grow with the answer.

    Args:
        tokenizer: The LLM's tokenizer.
        stop: Stop strings, found whatever their tokens are.
        min_tokens: The text of the first ``min_tokens`` tokens is never part
            of a stop string.

    Attributes:
        text: The text so far, stripped; the answer after :meth:`close`.
        stopped: Whether a stop string was found.
        complete: Whether, after :meth:`close`, the text holds all tokens.
        exact_stop: The stop string, where no text follows it in its last
            token; else None.
        length: Characters of all tokens so far, without the stop string and
            white space in front of it; white space at the beginning counts,
            which ``text`` does not have.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], min_tokens: int = 0
    ) -> None:
        self.text = ''
        self.stopped = False
        self.complete = False
        self.exact_stop: str | None = None
        self.length = 0
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._stop_prefixes = {
            text[:n] for text in self._stop for n in range(1, len(text))
        }
        self._max_prefix = max(map(len, self._stop_prefixes), default=0)
        self._ids: list[int] = []  # the window
        self._window_text = ''  # its text, up to where it was processed
        self._pending = ''  # processed text that is not returned yet
        self._exempt_tokens = min_tokens  # tokens left below the minimum
        self._has_exempt_text = False  # whether new text began below it
        self._exempt_length = 0  # characters of the pending text below it

    @property
    def returned(self) -> int:
        """How many of the ``length`` characters are not pending."""
        return self.length - len(self._pending)

    def add(self, token_id: int) -> str:
        """Add a token; returns the new text."""
        self._ids.append(token_id)
        if self._exempt_tokens:
            self._exempt_tokens -= 1
            self._has_exempt_text = True
        text = self._decode(self._ids)
        if text.endswith(_REPLACEMENT):
            return ''
        piece = self._process(text)
        if len(self._ids) > _MAX_WINDOW:
            ids = self._ids[-_MIN_WINDOW:]
            text = self._decode(ids)
            if _REPLACEMENT not in text:  # not within a character
                self._ids, self._window_text = ids, text
        return piece

    def close(self) -> str:
        """End the answer; returns the text that was pending."""
        if self.stopped:
            return ''
        length = len(self.text)
        # an incomplete character at the end is dropped
        text = self._decode(self._ids)
        self.complete = not text.endswith(_REPLACEMENT)
        self._process(text.rstrip(_REPLACEMENT))
        if not self.stopped:
            self._append(self._pending.rstrip())
            self._pending = ''
        return self.text[length:]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _process(self, text: str) -> str:
        """Process the window's text; returns what can be returned of it."""
        new = text[len(self._window_text) :]
        self._window_text = text
        if not new or self.stopped:
            return ''
        pending = self._pending + new
        self.length += len(new)
        if self._has_exempt_text:
            self._has_exempt_text = False
            self._exempt_length = len(pending)
        start = self._exempt_length
        found = [
            (index, stop)
            for stop in self._stop
            if (index := pending.find(stop, start)) >= 0
        ]
        if found:
            index, stop = min(found)
            self.stopped = True
            if index + len(stop) == len(pending):
                self.exact_stop = stop
            self._pending = ''
            piece = pending[:index].rstrip()
            self.length += len(piece) - len(pending)
            return self._append(piece)
        end = len(pending)
        longest = min(self._max_prefix, len(pending) - start)
        for length in range(longest, 0, -1):
            if pending[-length:] in self._stop_prefixes:
                end -= length
                break
        piece = pending[:end].rstrip()
        self._pending = pending[len(piece) :]
        self._exempt_length = max(0, start - len(piece))
        return self._append(piece)

    def _append(self, text: str) -> str:
        if not self.text:
            text = text.lstrip()
        self.text += text
        return text


__getattr__ = renamed(__name__, {'TextStream': 'Detokenizer'})
