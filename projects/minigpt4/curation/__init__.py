# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Make descriptions for stage 2 from images, as in section 3.2 of the paper.

Each image passes through steps: describe, continue, repair, rules, review,
export. :mod:`.ledger` stores every result of every step; :mod:`.pipeline`
runs the steps; each other module is one step, or a part of one.
"""
