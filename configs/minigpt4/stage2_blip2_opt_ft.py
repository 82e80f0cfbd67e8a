"""Stage 2 from BLIP-2's own projection: "BLIP-2 FT" (4.3), with OPT-2.7B.

bash tools/dist_train.sh configs/minigpt4/stage2_blip2_opt_ft.py 1
"""

from mmengine.config import read_base

with read_base():
    from ._base_.blip2_opt_2_7b import *
    from ._base_.stage2 import *

model.update(stage_model)
load_from = 'weights/blip2_opt/minigpt4.pth'
