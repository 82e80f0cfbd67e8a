"""Stage 1 with Vicuna-13B, its layers sharded over the GPUs (FSDP).

bash tools/dist_train.sh configs/minigpt4/stage1_13b_sharded.py 4
"""

from mmengine.config import read_base

with read_base():
    from .stage1_13b import *

model['decoder'].update(shard=True)
model.update(micro_batch_size=16)
