# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The error of a sample that cannot be used, and its possible reasons."""

NO_IMAGE = 'image is missing'
IMAGE = 'image cannot be read'
CAPTION = 'caption cannot be used'
RECORD = 'record cannot be used'
FEATURES = 'features are damaged'
OTHER = 'other'
REASONS = (IMAGE, NO_IMAGE, CAPTION, RECORD, FEATURES, OTHER)


class SampleError(ValueError):
    """A sample that cannot be used; training skips and counts it.

    Args:
        message: A sentence for the user.
        reason: One of ``REASONS``.
    """

    def __init__(self, message: str, reason: str = IMAGE) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.reason)
