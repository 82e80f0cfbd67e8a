"""Stage 2 with Llama-3.2-1B-Instruct, for a GPU of 8 GB.

bash tools/dist_train.sh configs/minigpt4/stage2_llama3_2_1b.py 1 \
    --cfg-options load_from=work_dirs/stage1_llama3_2_1b/iter_20000.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.llama3_2_1b import *
    from ._base_.stage2 import *

model.update(stage_model, micro_batch_size=2)
