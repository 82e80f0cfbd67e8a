# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The limits of one request."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request.

    Attributes:
        body: The maximum number of bytes of its body.
        images: The maximum number of images of its conversation.
        max_tokens: The maximum number of tokens of an answer.
        choices: The maximum number of answers (``n``).
        beams: The maximum number of beams; all other requests wait during a
            beam search.
        text: The maximum number of characters of its messages.
        seconds: The maximum time of a request, waiting included.
        client_requests: The maximum number of requests of one client that
            run or wait at the same time; 0 for no limit.
    """

    body: int = 64 * 2**20
    images: int = 8
    max_tokens: int = 2048
    choices: int = 8
    beams: int = 1
    text: int = 100_000
    seconds: float = 600.0
    client_requests: int = 0
