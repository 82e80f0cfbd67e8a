"""Stage 1 with LLaMA-2-7B chat, without Q-Former.

bash tools/dist_train.sh configs/minigpt4/stage1_llama2_7b.py 4
"""

from mmengine.config import read_base

with read_base():
    from ._base_.llama2_7b import *
    from ._base_.stage1 import *

model.update(stage_model, micro_batch_size=64)
