"""Stage 1 with SmolLM2-135M-Instruct, for a GPU of 8 GB.

bash tools/dist_train.sh configs/minigpt4/stage1_smollm2_135m.py 1
"""

from mmengine.config import read_base

with read_base():
    from ._base_.smollm2_135m import *
    from ._base_.stage1 import *

model.update(stage_model, micro_batch_size=64)
