"""Stage 2 on the nano model with long, monotonous descriptions (4.3).

bash tools/dist_train.sh configs/minigpt4/stage2_nano_locna.py 1 \
    --cfg-options load_from=work_dirs/stage1_nano/iter_800.pth
"""

from mmengine.config import read_base

with read_base():
    from .stage2_nano import *

# the longest has 85 tokens
model['generation'].update(max_new_tokens=100)
train_dataloader['dataset'].update(ann_file='narratives.json')
