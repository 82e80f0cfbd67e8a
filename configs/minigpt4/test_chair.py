"""CHAIR with Vicuna-7B, for a checkpoint of the projection.

python tools/test.py configs/minigpt4/test_chair.py CHECKPOINT

The scores are those of "minigpt4 eval chair". For those of "minigpt4 eval
captions" give its name and the file of reference captions in the two places.
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop

from minigpt4.datasets import LoadImages, PackSample
from minigpt4.evaluation.caption_dataset import CaptionDataset
from minigpt4.evaluation.metrics import CaptionMetric

with read_base():
    from ._base_.runtime import *
    from ._base_.vicuna_7b import *

# the classes in each image, the --truth of "minigpt4 eval chair"
annotations = 'data/coco/chair_objects.json'
test_dataloader = dict(
    batch_size=16,
    num_workers=4,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CaptionDataset,
        protocol='chair',
        annotations=annotations,
        images='data/coco/val2014',
        pipeline=[
            dict(type=LoadImages, size=image_size, exact=True),
            dict(type=PackSample, keys=('image_id',)),
        ],
    ),
)
test_cfg = dict(type=TestLoop)
test_evaluator = dict(
    type=CaptionMetric, protocol='chair', annotations=annotations
)
