"""POPE with Vicuna-7B, for a checkpoint of the projection.

python tools/test.py configs/minigpt4/test_pope.py CHECKPOINT

The scores are those of "minigpt4 eval pope". Other protocols need their name
in the two places, their files and their generation settings.
"""

from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop

from minigpt4.datasets import LoadImages, PackSample
from minigpt4.evaluation.metrics import QuestionMetric
from minigpt4.evaluation.question_dataset import QuestionDataset

with read_base():
    from ._base_.runtime import *
    from ._base_.vicuna_7b import *

model.update(
    generation=dict(do_sample=False, repetition_penalty=1.0, max_new_tokens=64)
)
test_dataloader = dict(
    batch_size=16,
    num_workers=4,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=QuestionDataset,
        protocol='pope',
        questions='data/pope/coco_pope_random.json',
        images='data/coco/val2014',
        pipeline=[
            dict(type=LoadImages, size=image_size, exact=True),
            dict(type=PackSample, keys=('image', 'truth', 'choices')),
        ],
    ),
)
test_cfg = dict(type=TestLoop)
test_evaluator = dict(type=QuestionMetric, protocol='pope')
