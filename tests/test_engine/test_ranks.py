# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Ranks agree on a signal, and leave their group."""

import subprocess
import sys

# each rank runs it; torch 2.6 hung in one of about 50 groups
VOTES = """
import sys
import torch
from mmengine.dist import all_gather_object
from minigpt4.engine.ranks import StopVote, leave_ranks

rank = int(sys.argv[2])
for number in range(50):
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{sys.argv[1]}/{number}',
        rank=rank,
        world_size=2,
    )
    vote = StopVote()
    found = [vote.agreed(15 if rank and step == 1 else None)
             for step in range(3)]
    vote.close()
    assert found == [None, None, 15], found
    assert all_gather_object(rank) == [0, 1]
    leave_ranks()
"""


def test_ranks_agree_on_a_signal_and_leave(tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, '-c', VOTES, tmp_path, str(rank)])
        for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=600) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
