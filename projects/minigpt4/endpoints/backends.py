# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The backend of the settings."""

from .answers import AnswerBackend, RecordedAnswers
from .settings import EndpointSettings


def create_backend(settings: EndpointSettings) -> AnswerBackend:
    """Create the backend of the settings.

    Raises:
        ImportError: A package is not installed.
        ValueError: A setting is invalid, or the model cannot be built.
        OSError: A file cannot be read.
    """
    if settings.backend == 'openai':
        from .openai_api import OpenAIBackend

        return OpenAIBackend(settings)
    if settings.backend == 'model':
        from .local_model import ModelBackend, shared_model

        model = shared_model(
            settings.model,
            settings.pretrained,
            settings.device,
            settings.template,
        )
        return ModelBackend(model, settings)
    return RecordedAnswers(str(settings.recorded), settings.model)
