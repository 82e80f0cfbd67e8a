# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Lets the parity tests share the scripts that stand beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
