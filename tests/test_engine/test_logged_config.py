# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a run writes has no logins of addresses."""

from pathlib import Path

from mmengine.config import Config

from minigpt4.engine.config import build_runner
from minigpt4.engine.logged_config import LoggedConfig
from minigpt4.weights.checkpoint_files import read_checkpoint

ADDRESS = 'https://me:s3cret@host/{0..3}.tar'
SHOWN = 'https://***@host/{0..3}.tar'


def test_values_stay_and_texts_have_no_login():
    values = dict(a=[dict(shards=ADDRESS)], b=('x', ADDRESS, 3), c=None)
    logged = LoggedConfig.of(Config(dict(values)))
    assert logged.a[0].shards == ADDRESS
    assert Config.fromstring(logged.pretty_text, '.py').to_dict() == dict(
        a=[dict(shards=SHOWN)], b=('x', SHOWN, 3), c=None
    )
    assert logged.to_dict()['a'] == [dict(shards=SHOWN)]
    assert logged.to_dict()['b'] == ('x', SHOWN, 3)


def test_no_file_of_a_run_has_a_login(make_cfg):
    cfg = make_cfg('stream', max_iters=2, address=ADDRESS)
    runner = build_runner(cfg)
    assert runner.cfg.address == ADDRESS
    runner.train()
    files = [p for p in Path(cfg.work_dir).rglob('*') if p.is_file()]
    written = {p: p.read_bytes() for p in files}
    assert not [p for p, content in written.items() if b's3cret' in content]
    with_config = [p for p in written if SHOWN.encode() in written[p]]
    kinds = {p.suffix for p in with_config}
    assert {'.py', '.log', '.pth'} <= kinds, with_config
    checkpoint = read_checkpoint(Path(cfg.work_dir) / 'iter_2.pth', 'cpu')
    assert SHOWN in checkpoint['meta']['cfg']
