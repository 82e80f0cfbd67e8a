# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Let the parity tests import the scripts of this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
