# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The chat templates of well-known LLMs, on small tokenizers."""

import pytest
from tests.chat_families import FAMILIES, family_tokenizer

from minigpt4.prompts import ChatTemplate


@pytest.fixture(params=FAMILIES)
def family(request):
    """The name of a family of LLMs."""
    return request.param


@pytest.fixture
def tokenizer(family):
    """Its tokenizer; read only."""
    return family_tokenizer(family)


@pytest.fixture
def template(tokenizer):
    """The prompt template that is made from its chat template."""
    return ChatTemplate(tokenizer)
