# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The cost of a loop and its hooks per iteration, without the step itself.

The model has as many modules as MiniGPT-4 and one trained number.

    python benchmarks/loop_host.py SIDE
"""

import logging
import sys
import tempfile
import time
from types import SimpleNamespace

import harness

MODULES = 1082
ITERATIONS = 300


def make_parts():
    """Model, data and optimizer of a trivial training."""
    import torch
    from mmengine.model import BaseModel
    from torch import nn
    from torch.utils.data import Dataset

    class Model(BaseModel):
        """Many modules, one of which is trained."""

        def __init__(self) -> None:
            super().__init__()
            frozen = MODULES - 4  # itself, the preprocessor, two below
            self.frozen = nn.ModuleList(nn.Identity() for _ in range(frozen))
            self.head = nn.Linear(1, 1)
            self.decoder = SimpleNamespace(vocab_size=32000)
            assert len(list(self.modules())) == MODULES

        def collator(self, training: bool):
            return lambda samples: dict(
                x=torch.ones(1, 1),
                counts=dict(samples=1, tokens=1, skipped=0, truncated=0),
            )

        def train_step(self, data, optim_wrapper):
            loss = self.head(data['x']).square().sum()
            optim_wrapper.update_params(loss)
            return dict(loss=loss.detach())

        def forward(self, *args, **kwargs) -> None:
            """Required by mmengine; the step computes the loss itself."""

    class Data(Dataset):
        """Endless empty samples."""

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> None:
            return None

    torch.manual_seed(0)
    return Model(), Data()


def runner_of(side: str, work_dir: str):
    """A runner of our config's loop, hooks and log, or of MMEngine's."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    import minigpt4.engine

    model, data = make_parts()
    ours = side == 'ours'
    base = harness.HERE.parent / 'configs/minigpt4/_base_/runtime.py'
    settings = {}
    if ours:
        settings = Config.fromfile(base).to_dict()
        hooks = settings.get('custom_hooks', [])
        for hook in (*hooks, *settings['default_hooks'].values()):
            if hook and 'dataset' in hook:  # it captions samples
                hook['dataset'] = dict(type='NoSamples')
        settings['default_hooks']['checkpoint']['interval'] = 10**6
        settings['default_hooks']['checkpoint']['save_last'] = False
        loop = dict(type=minigpt4.engine.EndlessTrainLoop)
        sampler = dict(type='minigpt4.EndlessSampler')
    else:
        # MMEngine's hooks for training by iterations
        settings['default_hooks'] = dict(
            logger=dict(
                type='LoggerHook', interval=50, log_metric_by_epoch=False
            ),
            checkpoint=dict(
                type='CheckpointHook',
                by_epoch=False,
                interval=10**6,
                save_last=False,
            ),
        )
        settings['log_processor'] = dict(by_epoch=False, window_size=50)
        loop = dict(type='IterBasedTrainLoop')
        sampler = dict(type='InfiniteSampler', shuffle=True)
    settings = {k: v for k, v in settings.items() if not k.startswith('_')}
    return Runner(
        model=model,
        work_dir=work_dir,
        train_dataloader=dict(
            dataset=data,
            sampler=sampler,
            batch_size=1,
            num_workers=0,
            collate_fn=model.collator(True),
        ),
        train_cfg=dict(loop, max_iters=ITERATIONS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        param_scheduler=[
            dict(type='CosineAnnealingLR', by_epoch=False, T_max=ITERATIONS)
        ],
        log_level=logging.WARNING,
        **settings,
    )


def raw() -> float:
    """Seconds of the same iterations without a runner."""
    import torch
    from mmengine.optim import OptimWrapper
    from torch.utils.data import DataLoader

    model, data = make_parts()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    loader = DataLoader(data, batch_size=1, collate_fn=model.collator(True))
    batches = iter(loader)
    model.train()
    start = time.process_time()
    for _ in range(ITERATIONS):
        model.train_step(next(batches), wrapper)
    return time.process_time() - start


def build(side: str):
    """A worker's work and guard."""
    import torch
    from mmengine.hooks import Hook
    from mmengine.registry import DATASETS

    torch.set_num_threads(1)

    @DATASETS.register_module(name='NoSamples')
    class NoSamples(list):
        """No sample to caption."""

    class Clock(Hook):
        """Measures the time from the first iteration to the last."""

        priority = 'VERY_LOW'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 0:
                self.start = time.process_time()

        def after_train_iter(
            self, runner, batch_idx, data_batch=None, outputs=None
        ):
            self.end = time.process_time()

    def train() -> Clock:
        with tempfile.TemporaryDirectory() as folder:
            runner = runner_of(side, folder)
            clock = Clock()
            runner.register_hook(clock)
            runner.train()
            clock.weight = runner.model.head.weight.item()
        return clock

    def work() -> float:
        clock = train()
        return (clock.end - clock.start) - raw()

    return work, dict(weight=train().weight)


def measure(repeats: int) -> list[dict]:
    """The rows."""
    return [
        harness.compare(
            'loop-host',
            harness.side('loop_host.py', 'ours'),
            harness.side('loop_host.py', 'stock'),
            'ms/iteration over the raw loop',
            4,
            peer_name="MMEngine 0.10.7's IterBasedTrainLoop, default hooks",
            per=ITERATIONS,
            rate=False,
            scale=1000,
            at_most=1,
            repeats=repeats,
        )
    ]


if __name__ == '__main__':
    harness.worker(lambda: build(sys.argv[1]))
