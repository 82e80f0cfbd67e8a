# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Settings of the review."""

from pydantic import BaseModel, ConfigDict, Field

GUARD_STEP = 'repair'


class ReviewSettings(BaseModel):
    """How the queue of the review is sorted.

    The risk of a text is the sum of the weights of its flags; texts of
    higher risk come first.
    """

    model_config = ConfigDict(extra='forbid')

    guard_weight: float = Field(
        default=2.0, ge=0, description='of a flag of the repair guard'
    )
    warning_weight: float = Field(
        default=1.0, ge=0, description='of a flag of another step'
    )
    object_weight: float = Field(
        default=1.5,
        ge=0,
        description='of an object that neither the objects nor the captions '
        'of the image have',
    )

    def weight(self, step: str) -> float:
        """The weight of a flag of a step."""
        return self.guard_weight if step == GUARD_STEP else self.warning_weight
