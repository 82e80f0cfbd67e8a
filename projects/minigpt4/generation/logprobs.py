# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Log-probabilities of generated tokens, and which tokens have text."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .detokenizer import Detokenizer


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of a generated token, in nats.

    It is that of the model's own distribution: the log-softmax of the LLM's
    scores, before temperature, ``top_k``, ``top_p`` and penalties.

    Attributes:
        token_id: The token.
        logprob: Its log-probability.
        top: Ids and log-probabilities of the likeliest tokens at this
            position, likeliest first. The token itself is one of them only
            if it is that likely.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(
    scores: Tensor,
    tokens: Sequence[int | Exception],
    numbers: Sequence[int | None],
) -> list[TokenLogprob | None]:
    """Compute the log-probabilities of chosen tokens.

    Nothing is computed for rows without a number.

    Args:
        scores: ``(B, vocab_size)`` scores of the LLM, not processed.
        tokens: The token that was chosen in each row, or an error.
        numbers: How many of the likeliest tokens to list for each row, or
            None.

    Returns:
        The log-probability of each row, or None.
    """
    found: list[TokenLogprob | None] = [None] * len(numbers)
    asked = [
        (row, token, number)
        for row, (token, number) in enumerate(zip(tokens, numbers))
        if number is not None and isinstance(token, int)
    ]
    if not asked:
        return found
    rows, ids, counts = zip(*asked, strict=True)
    logprobs = scores[list(rows)].float().log_softmax(-1)
    index = torch.tensor(ids, device=logprobs.device)[:, None]
    chosen = logprobs.gather(-1, index).flatten().tolist()
    top = logprobs.topk(min(max(counts), logprobs.shape[-1]))
    likeliest, values = top.indices.tolist(), top.values.tolist()
    for i, (row, token, number) in enumerate(asked):
        pairs = zip(likeliest[i][:number], values[i], strict=False)
        found[row] = TokenLogprob(token, chosen[i], tuple(pairs))
    return found


class TextTokens:
    """Counts the tokens whose text a detokenizer has returned.

    A token counts as soon as the first character of its text was returned;
    one without text of its own, such as a byte of a character, counts with
    the text after it. Tokens of a stop string and of white space in front of
    it never count, but the token in which it begins does if it has other text
    in front of it.

    Args:
        detokenizer: The detokenizer of the answer.

    Attributes:
        count: How many of the first tokens count so far.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self.count = 0
        self._detokenizer = detokenizer
        self._starts: deque[int] = deque()  # of tokens that do not count yet

    def add(self, token_id: int) -> str:
        """Add a token to the detokenizer; returns the new text."""
        self._starts.append(self._detokenizer.length)
        piece = self._detokenizer.add(token_id)
        self._advance()
        return piece

    def close(self) -> str:
        """Close the detokenizer; returns the text that was pending.

        Without a stop string all tokens count in the end, also those of an
        incomplete character.
        """
        piece = self._detokenizer.close()
        self._advance()
        if not self._detokenizer.stopped:
            self.count += len(self._starts)
            self._starts.clear()
        return piece

    def _advance(self) -> None:
        returned = self._detokenizer.returned
        while self._starts and self._starts[0] < returned:
            self._starts.popleft()
            self.count += 1
