# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""MiniGPT-4 in vLLM: folders of ``minigpt4 convert --to huggingface``.

vLLM calls :func:`register` in each of its processes (entry point
``vllm.general_plugins``). The package imports neither ``minigpt4`` nor what
that needs: it works with the libraries that vLLM installs.
"""


def register() -> None:
    """Register the models with vLLM.

    Raises:
        ImportError: This vLLM has not what the package uses.
    """
    from .registration import register_models

    register_models()
