"""Stage 2 with Qwen3-0.6B, for a GPU of 8 GB.

bash tools/dist_train.sh configs/minigpt4/stage2_qwen3_0_6b.py 1 \
    --cfg-options load_from=work_dirs/stage1_qwen3_0_6b/iter_20000.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.qwen3_0_6b import *
    from ._base_.stage2 import *

model.update(stage_model, micro_batch_size=4)
