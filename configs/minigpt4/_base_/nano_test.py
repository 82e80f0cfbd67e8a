"""Questions about held-out scenes of the nano world."""

from mmengine.dataset import DefaultSampler
from mmengine.runner import TestLoop

from minigpt4.datasets import LoadImages, PackSample
from minigpt4.nano import NanoMetric

test_dataloader = dict(
    batch_size=250,
    num_workers=1,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        # a string, which MMPretrain's get_model needs
        type='minigpt4.InstructionDataset',
        ann_file='test.json',
        data_root='data/nano/test',
        keep_answers=False,
        pipeline=[
            dict(type=LoadImages, size=64),
            dict(type=PackSample, keys=('task', 'answer', 'scene')),
        ],
    ),
)
test_cfg = dict(type=TestLoop)
test_evaluator = dict(type=NanoMetric)
