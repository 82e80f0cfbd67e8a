# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The error of an image that is refused or cannot be read."""


class ImageError(ValueError):
    """An image that is refused or cannot be read.

    Its text is ``REASON; HINT.``, or ``REASON.`` without a hint.

    Args:
        reason: What was found, without a full stop.
        hint: What to do or what was expected, without a full stop.
    """

    def __init__(self, reason: str, hint: str = '') -> None:
        super().__init__(f'{reason}; {hint}.' if hint else f'{reason}.')
        self.reason = reason
        self.hint = hint

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.hint)


def too_large(name: str, size: int, limit: int) -> ImageError:
    """Build the error of a file with too many bytes.

    Args:
        name: What the file is called in the message.
        size: Bytes that were found or announced.
        limit: Bytes that are allowed.
    """
    return ImageError(
        f'{name} has {size:,} bytes or more; at most {limit:,} are allowed',
        'send a smaller image',
    )
