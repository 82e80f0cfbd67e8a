"""DPO after stage 2: 200 x 12 preference pairs of a curation."""

from mmengine.config import read_base
from mmengine.runner import LogProcessor

from minigpt4.datasets import (
    DrawQuestion,
    LoadImages,
    PackSample,
    PreferenceDataset,
)
from minigpt4.engine import ReferenceHook

with read_base():
    from .stage2 import *

max_iters = 200
# beta of the paper (arXiv 2305.18290)
stage_model.update(preference=dict(beta=0.1))
train_dataloader.update(
    dataset=dict(
        type=PreferenceDataset,
        ann_file='preference.jsonl',
        data_root='data/curated',
        pipeline=[
            dict(type=LoadImages, size=224),
            dict(type=DrawQuestion, questions=alignment_questions),
            dict(type=PackSample, keys=('rejected',)),
        ],
    )
)
default_hooks.update(reference=dict(type=ReferenceHook))
# rewards are logged as means, as losses are
log_processor = dict(
    type=LogProcessor,
    by_epoch=False,
    window_size=50,
    mean_pattern=r'.*(loss|time|data_time|grad_norm|reward).*',
)
optim_wrapper['optimizer'].update(lr=1e-5)
param_scheduler[0].update(warmup=20, start=1e-6, minimum=1e-6)
