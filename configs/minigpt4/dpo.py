"""DPO with Vicuna-7B, after stage 2, on the pairs of a curation.

minigpt4 curate export -o data/curated --layout preference
bash tools/dist_train.sh configs/minigpt4/dpo.py 1 \
    --cfg-options load_from=work_dirs/stage2/iter_400.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.dpo import *
    from ._base_.vicuna_7b import *

model.update(stage_model)
