"""Stage 2 with Vicuna-13B: the paper's 400 iterations.

bash tools/dist_train.sh configs/minigpt4/stage2_13b.py 1 \
    --cfg-options load_from=work_dirs/stage1_13b/iter_20000.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.stage2 import *
    from ._base_.vicuna_13b import *

model.update(stage_model)
