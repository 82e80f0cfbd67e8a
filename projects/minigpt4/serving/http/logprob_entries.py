# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Log-probabilities of tokens in OpenAI's format."""

from typing import Any

from ...generation.logprobs import TokenLogprob
from ...generation.request import GenerationRequest
from ...llm.token_bytes import TokenBytes

LOWEST = -9999.0  # OpenAI's value of a very unlikely token; JSON has no -inf


class LogprobEntries:
    """Writes log-probabilities of the tokens of one tokenizer.

    Args:
        tokenizer: The LLM's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._bytes = TokenBytes(tokenizer)

    def write(
        self, generation: GenerationRequest, start: int, end: int
    ) -> dict[str, Any] | None:
        """Write the field ``logprobs`` of a choice.

        Args:
            generation: The request to the engine.
            start: The first token.
            end: The token behind the last.

        Returns:
            An object with ``content``; None if the request does not ask for
            log-probabilities.
        """
        if generation.sampling_params.logprobs is None:
            return None
        content = [
            self._entry(token) for token in generation.logprobs[start:end]
        ]
        return dict(content=content, refusal=None)

    def _entry(self, token: TokenLogprob) -> dict[str, Any]:
        return dict(
            **self._value(token.token_id, token.logprob),
            top_logprobs=[self._value(*pair) for pair in token.top],
        )

    def _value(self, token_id: int, logprob: float) -> dict[str, Any]:
        found = self._bytes(token_id)
        return dict(
            token=self._bytes.text(token_id),
            logprob=max(logprob, LOWEST),
            bytes=None if found is None else list(found),
        )
