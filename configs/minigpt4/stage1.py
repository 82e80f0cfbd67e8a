"""Stage 1 with Vicuna-7B.

bash tools/dist_train.sh configs/minigpt4/stage1.py 4
"""

from mmengine.config import read_base

with read_base():
    from ._base_.stage1 import *
    from ._base_.vicuna_7b import *

model.update(stage_model, micro_batch_size=64)
