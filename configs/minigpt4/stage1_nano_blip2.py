"""Stage 1 with a nano LLM that knows captions and no chat: "BLIP-2".

python tools/build_nano.py --parts llm --captions-only \
    --llm-steps 800 --out weights/nano_captions
bash tools/dist_train.sh configs/minigpt4/stage1_nano_blip2.py 1
"""

from mmengine.config import read_base

with read_base():
    from .stage1_nano import *

model['decoder'].update(name_or_path='weights/nano_captions/llm')
