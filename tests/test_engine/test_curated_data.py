# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stage 2 trains on the export of a curation without changes to it."""

import math

import pytest
from tests import curated_ledger
from tests.curated_ledger import make_ledger

from minigpt4.curation.export import ExportSettings, export_curation
from minigpt4.curation.pipeline import plan
from minigpt4.engine.config import build_runner


@pytest.mark.parametrize(
    ('layout', 'file'),
    [
        ('cc_sbu_align', 'filter_cap.json'),
        ('conversations', 'conversations.json'),
        ('llava', 'llava.json'),
    ],
)
def test_a_step_of_stage_2(layout, file, tmp_path, make_cfg, losses, written):
    out = tmp_path / 'export'
    with make_ledger(tmp_path) as ledger:
        planned = plan(ledger, curated_ledger.steps())
        settings = ExportSettings(layouts=[layout])
        export_curation(ledger, planned, settings, out)
    cfg = make_cfg(
        'sampler',
        **{
            'max_iters': 1,
            'train_dataloader.dataset.data_root': str(out),
            'train_dataloader.dataset.ann_file': file,
        },
    )
    build_runner(cfg).train()
    (loss,) = losses(cfg)
    assert math.isfinite(loss) and loss > 0
    assert '1 iterations done; 0 samples were skipped' in written(cfg)
