"""Hooks, logs and random seed of every run."""

from mmengine.hooks import (
    CheckpointHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
)
from mmengine.runner import LogProcessor
from mmengine.visualization import LocalVisBackend, Visualizer

from minigpt4.engine import (
    DeferredLossHook,
    ResumeHook,
    SampleCaptionsHook,
    SanityHook,
    ThroughputHook,
)

default_hooks = dict(
    runtime_info=dict(type=DeferredLossHook),
    timer=dict(type=IterTimerHook),
    sampler_seed=None,  # a sampler here has no epochs
    logger=dict(type=LoggerHook, interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(
        type=CheckpointHook,
        by_epoch=False,
        interval=1000,
        max_keep_ckpts=3,
        backend_args=dict(backend='atomic'),
    ),
    resume=dict(type=ResumeHook),
    sanity=dict(type=SanityHook),
    throughput=dict(type=ThroughputHook),
    sample_captions=dict(type=SampleCaptionsHook, interval=1000),
)
custom_hooks = []  # for hooks of your own: custom_hooks += [...]
log_processor = dict(type=LogProcessor, by_epoch=False, window_size=50)
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])
randomness = dict(seed=42)
env_cfg = dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
load_from = None
resume = False
