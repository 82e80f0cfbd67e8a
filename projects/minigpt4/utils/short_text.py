# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Short ASCII forms of untrusted text, for messages, headers and logs."""


def to_ascii(text: str) -> str:
    r"""Write a text in ASCII, with other characters as ``\xe9`` or ``\n``."""
    return ascii(text)[1:-1]


def shorten(text: str, limit: int = 60) -> str:
    """Shorten a text to ``limit`` characters and write it in ASCII."""
    return to_ascii(text if len(text) <= limit else text[: limit - 3] + '...')
