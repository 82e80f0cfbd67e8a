# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What ranks do together: one decides for all, and all stop at one step."""

from collections.abc import Callable
from typing import TypeVar

import torch
from mmengine.dist import (
    broadcast_object_list,
    get_world_size,
    is_main_process,
)

from ..utils.errors import describe

T = TypeVar('T')


class OtherRankError(RuntimeError):
    """Rank 0 has failed and reports the error; this rank only ends."""


def on_main_rank(function: Callable[[], T]) -> T:
    """Call a function on rank 0 alone and give its result to all ranks.

    Args:
        function: Returns something that can be pickled.

    Raises:
        OtherRankError: On the other ranks, where it failed on rank 0. There
            the error itself is raised.
    """
    if get_world_size() == 1:
        return function()
    answer: list = [None, None]
    failure: BaseException | None = None
    if is_main_process():
        try:
            answer[0] = function()
        except Exception as error:
            failure, answer[1] = error, describe(error)
    broadcast_object_list(answer)
    if failure is not None:
        raise failure
    if answer[1] is not None:
        raise OtherRankError(f'rank 0: {answer[1]}')
    return answer[0]


class StopVote:
    """Lets all ranks see a stop signal of any rank after the same step.

    The largest signal number of all ranks is exchanged over gloo on the CPU.
    The exchange of a step runs while the next step is computed, so that no
    rank waits for it; ranks therefore stop one step after the signal.
    """

    def __init__(self) -> None:
        self._group = None
        self._pending: tuple | None = None
        if get_world_size() > 1:
            self._group = torch.distributed.new_group(backend='gloo')

    def agreed(self, signum: int | None) -> int | None:
        """The signal that all ranks stop for after this step, if any.

        Every rank calls it once after each step.

        Args:
            signum: The signal that this rank has received.
        """
        if self._group is None:
            return signum
        result = 0
        if self._pending is not None:
            work, vote = self._pending
            work.wait()
            result = int(vote)
        vote = torch.tensor(signum or 0)
        work = torch.distributed.all_reduce(
            vote,
            torch.distributed.ReduceOp.MAX,
            group=self._group,
            async_op=True,
        )
        self._pending = (work, vote)
        return result or None

    def close(self) -> None:
        """Wait for the exchange that still runs and leave the group."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
        if self._group is not None:
            torch.distributed.destroy_process_group(self._group)
            self._group = None
