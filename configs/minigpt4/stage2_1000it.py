"""Stage 2 with Vicuna-7B: the official code's 1,000 iterations."""

from mmengine.config import read_base

with read_base():
    from .stage2 import *

max_iters = 1000
param_scheduler[0].update(warmup=200)
