"""Stage 2 on the small model, on the export of a curation.

bash tools/dist_train.sh configs/minigpt4/stage2_small_curated.py 2
"""

from mmengine.config import read_base

with read_base():
    from .stage2_small import *

load_from = 'projects/minigpt4/small/weights/minigpt4_small.pth'
train_dataloader['dataset'].update(
    ann_file='filter_cap.json', data_root='data/curated', image_folder='image'
)
default_hooks['sample_captions'].update(dataset=None)  # of the training data
