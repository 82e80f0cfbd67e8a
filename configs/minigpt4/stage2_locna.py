"""Stage 2 with Vicuna-7B on Localized Narratives: "MiniGPT-4 LocNa" (4.3).

bash tools/dist_train.sh configs/minigpt4/stage2_locna.py 1 \
    --cfg-options load_from=work_dirs/stage1/iter_20000.pth
"""

from mmengine.config import read_base

from minigpt4.data_tools.official_dataset import OfficialDataset
from minigpt4.datasets import DrawQuestion, LoadImages, PackSample

with read_base():
    from .stage2 import *

train_dataloader['dataset'] = dict(
    type=OfficialDataset,
    # the folder of coco_train_localized_narratives-0000?-of-00004.jsonl
    source='data/localized_narratives',
    images='data/coco',
    format='narratives',
    pipeline=[
        dict(type=LoadImages, size=224),
        dict(type=DrawQuestion, questions=alignment_questions),
        dict(type=PackSample),
    ],
)
