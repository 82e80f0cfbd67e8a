"""MiniGPT-4 with SmolLM2-135M-Instruct: 442,944 weights trained."""

from mmengine.config import read_base

with read_base():
    from .smollm2_135m_arch import *
    from .vicuna_7b import *

model['decoder'].update(
    name_or_path='HuggingFaceTB/SmolLM2-135M-Instruct',
    arch=smollm2_135m_arch,
)
model.update(prompt_template='chat')
