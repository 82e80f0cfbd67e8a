"""Stage 2 with LLaMA-2-7B chat, without Q-Former: the paper's 400 iterations.

bash tools/dist_train.sh configs/minigpt4/stage2_llama2_7b.py 1 \
    --cfg-options load_from=work_dirs/stage1_llama2_7b/iter_20000.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.llama2_7b import *
    from ._base_.stage2 import *

model.update(stage_model)
