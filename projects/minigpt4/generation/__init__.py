# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Text generation: continuous batching over KV slots with a prefix cache.

A request passes :mod:`~.engine` (or :mod:`~.worker`, a thread that runs one),
:mod:`~.model_runner`, :mod:`~.sampler` and :mod:`~.detokenizer`, in this
order, until it ends. :mod:`~.api` answers samples and batches of a model.
"""
