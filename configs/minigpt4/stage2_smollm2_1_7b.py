"""Stage 2 with SmolLM2-1.7B-Instruct, for a GPU of 8 GB.

bash tools/dist_train.sh configs/minigpt4/stage2_smollm2_1_7b.py 1 \
    --cfg-options load_from=work_dirs/stage1_smollm2_1_7b/iter_20000.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.smollm2_1_7b import *
    from ._base_.stage2 import *

model.update(stage_model, micro_batch_size=1)
