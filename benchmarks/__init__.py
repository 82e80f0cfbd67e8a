# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Benchmarks; a package, so that it comes before that of pyarrow 17."""
