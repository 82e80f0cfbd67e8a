"""Stage 1 with Vicuna-13B, its weights sharded over the GPUs (FSDP).

bash tools/dist_train.sh configs/minigpt4/stage1_fsdp.py 4
"""
from mmengine.config import read_base

with read_base():
    from .stage1_13b import *

strategy = dict(
    type='FSDPStrategy',
    model_wrapper=dict(
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
            min_num_params=100000000),
        use_orig_params=True))
