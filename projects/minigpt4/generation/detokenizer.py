# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Token ids, one by one, to the text of an answer as far as it is certain."""

from collections.abc import Sequence

from ..deprecated import renamed

_LOST = '\ufffd'  # what a tokenizer says for half a character
_WINDOW = 24  # tokens that are decoded again with each new one, at most
_KEPT = 6  # of these, how many stay when the window moves on


class Detokenizer:
    """The text of one answer while it is being written.

    What is shown is never taken back: half a character waits for its other
    half, the beginning of a stop string until it is none, and blanks until
    something follows. Only new text is looked at, so a token costs the same
    however long the answer is.

    Args:
        tokenizer: The LLM's tokenizer.
        stop: Texts that end the answer, however the tokenizer spells them.
        min_tokens: So many tokens from the beginning are never read as a
            stop text, or as the beginning of one.

    Attributes:
        text: What is shown, stripped; the whole answer once it is closed.
        stopped: Whether a stop string has come.
        whole: Whether it is closed and the text is all of its tokens.
        ended_by: That stop string, if nothing came behind it with its last
            token.
    """

    def __init__(
        self, tokenizer, stop: Sequence[str], min_tokens: int = 0
    ) -> None:
        self.text = ''
        self.stopped = False
        self.whole = False
        self.ended_by: str | None = None
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._beginnings = {
            mark[:n] for mark in self._stop for n in range(1, len(mark))
        }
        self._longest = max(map(len, self._beginnings), default=0)
        self._ids: list[int] = []  # the window
        self._known = ''  # its text, as far as it was taken
        self._waiting = ''  # taken, but not shown
        self._min_left = min_tokens  # tokens that are still below the minimum
        self._exempt = False  # whether new text began below the minimum
        self._exempt_length = 0  # of the waiting text, in characters

    def add(self, token_id: int) -> str:
        """Take a token; returns the text that can be shown now."""
        self._ids.append(token_id)
        if self._min_left:
            self._min_left -= 1
            self._exempt = True
        text = self._decode(self._ids)
        if text.endswith(_LOST):
            return ''
        piece = self._take(text)
        if len(self._ids) > _WINDOW:
            kept = self._ids[-_KEPT:]
            known = self._decode(kept)
            if _LOST not in known:  # not within a character
                self._ids, self._known = kept, known
        return piece

    def close(self) -> str:
        """End the answer; returns the last text, that was waiting."""
        if self.stopped:
            return ''
        before = len(self.text)
        # half a character that never became whole is left out
        text = self._decode(self._ids)
        self.whole = not text.endswith(_LOST)
        self._take(text.rstrip(_LOST))
        if not self.stopped:
            self._show(self._waiting.rstrip())
            self._waiting = ''
        return self.text[before:]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _take(self, text: str) -> str:
        """Take the window's text; returns what can be shown of it."""
        new = text[len(self._known) :]
        self._known = text
        if not new or self.stopped:
            return ''
        waiting = self._waiting + new
        if self._exempt:
            self._exempt = False
            self._exempt_length = len(waiting)
        first = self._exempt_length
        ends = [
            (place, mark)
            for mark in self._stop
            if (place := waiting.find(mark, first)) >= 0
        ]
        if ends:
            place, mark = min(ends)
            self.stopped = True
            if place + len(mark) == len(waiting):
                self.ended_by = mark
            self._waiting = ''
            return self._show(waiting[:place].rstrip())
        sure = len(waiting)
        longest = min(self._longest, len(waiting) - first)
        for length in range(longest, 0, -1):
            if waiting[-length:] in self._beginnings:
                sure -= length
                break
        shown = waiting[:sure].rstrip()
        self._waiting = waiting[len(shown) :]
        self._exempt_length = max(0, first - len(shown))
        return self._show(shown)

    def _show(self, text: str) -> str:
        if not self.text:
            text = text.lstrip()
        self.text += text
        return text


__getattr__ = renamed(__name__, {'TextStream': 'Detokenizer'})
