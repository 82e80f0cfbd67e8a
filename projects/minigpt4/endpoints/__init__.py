# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Language models that answer messages: endpoints, local models, files.

Repairs of the curation and judges of the evaluation ask them.
"""
