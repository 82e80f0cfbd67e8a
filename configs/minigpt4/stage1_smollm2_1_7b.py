"""Stage 1 with SmolLM2-1.7B-Instruct, for a GPU of 8 GB.

bash tools/dist_train.sh configs/minigpt4/stage1_smollm2_1_7b.py 1
"""

from mmengine.config import read_base

with read_base():
    from ._base_.smollm2_1_7b import *
    from ._base_.stage1 import *

model.update(stage_model, micro_batch_size=4)
