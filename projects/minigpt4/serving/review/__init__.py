# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page on which people review the texts of a curation."""
