"""Stage 2 with SmolLM2-135M-Instruct, for a GPU of 8 GB.

bash tools/dist_train.sh configs/minigpt4/stage2_smollm2_135m.py 1 \
    --cfg-options load_from=work_dirs/stage1_smollm2_135m/iter_20000.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.smollm2_135m import *
    from ._base_.stage2 import *

model.update(stage_model)
