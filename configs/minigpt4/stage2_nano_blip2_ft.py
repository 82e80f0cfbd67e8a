"""Stage 2 with a nano LLM that knows captions and no chat: "BLIP-2 FT" (4.3).

bash tools/dist_train.sh configs/minigpt4/stage2_nano_blip2_ft.py 1 \
    --cfg-options load_from=work_dirs/stage1_nano_blip2/iter_800.pth
"""

from mmengine.config import read_base

with read_base():
    from .stage2_nano import *

model['decoder'].update(name_or_path='weights/nano_captions/llm')
