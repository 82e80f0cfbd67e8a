"""Stage 1 with Qwen3-0.6B, for a GPU of 8 GB.

bash tools/dist_train.sh configs/minigpt4/stage1_qwen3_0_6b.py 1
"""

from mmengine.config import read_base

with read_base():
    from ._base_.qwen3_0_6b import *
    from ._base_.stage1 import *

model.update(stage_model, micro_batch_size=16)
