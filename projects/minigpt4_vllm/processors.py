# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The rules of :mod:`.answers` as logits processors of vLLM.

vLLM has two interfaces, one for each of its model runners. It names a class
by text, and asks the class, without the model, to check the parameters of a
request. So the name of a class contains the stop strings of its model;
:func:`processor_name` makes the name, and looking it up makes the class.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsContext,
    LogitsProcRequestState,
)
from vllm.v1.worker.gpu.sample.logits_processor.interface import (
    LogitsProcessor as LogitsProcessorV2,
)

from .answers import adapt_params, penalize, penalty_of, repeated_tokens


def processor_name(stop: Sequence[str], is_v2: bool) -> str:
    """Return the name of a logits processor, for vLLM's configuration.

    Args:
        stop: Stop strings of the model.
        is_v2: Whether vLLM uses its second model runner.
    """
    code = json.dumps([*stop]).encode().hex()
    base = RulesV2 if is_v2 else RulesV1
    return f'{__name__}:{base.__name__}_{code}'


class RulesV1(LogitsProcessor):
    """The rules of one model, in vLLM's first model runner.

    Attributes:
        stop: Stop strings of the model.
    """

    stop: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, vllm_config: VllmConfig, device: torch.device, pin_memory: bool
    ) -> None:
        # row in the batch: penalty, and the list of the answer's tokens,
        # which vLLM extends
        self._requests: dict[int, tuple[float, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Adapt the parameters of a request; see :func:`.adapt_params`."""
        adapt_params(sampling_params, cls.stop)

    def is_argmax_invariant(self) -> bool:
        """Return whether greedy answers stay the same, which they do not."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests that join, leave or move in the batch."""
        process_dict_updates(self._requests, batch_update, _new_request)

    def apply(self, logits: Tensor) -> Tensor:
        """Apply the penalties of all requests.

        Args:
            logits: ``(B, vocab_size)`` fp32.
        """
        for row, (penalty, answer) in self._requests.items():
            is_repeated = torch.zeros_like(logits[row], dtype=torch.bool)
            is_repeated[answer] = True
            logits[row] = penalize(
                logits[row], is_repeated, logits.new_tensor(penalty)
            )
        return logits


class RulesV2(LogitsProcessorV2):
    """The rules of one model, in vLLM's second model runner.

    Attributes:
        stop: Stop strings of the model.
    """

    stop: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, vllm_config: VllmConfig, req_states: LogitsProcRequestState
    ) -> None:
        super().__init__(vllm_config, req_states)
        self._states = req_states
        self._penalties = torch.ones(req_states.max_num_reqs)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Adapt the parameters of a request; see :func:`.adapt_params`."""
        adapt_params(sampling_params, cls.stop)

    def add_request(
        self, req_idx: int, sampling_params: SamplingParams
    ) -> bool:
        """Store the penalty of a new request.

        Returns:
            Whether it has one.
        """
        penalty = penalty_of(sampling_params)
        self._penalties[req_idx] = penalty
        return penalty != 1

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        """Apply the penalties of all requests.

        Args:
            logits: ``(B, vocab_size)`` fp32.
            ctx: Which request each row belongs to.
        """
        if bool((self._penalties[ctx.idx_mapping_np] == 1).all()):
            return logits
        slots = ctx.expanded_idx_mapping.long()
        is_repeated = repeated_tokens(
            self._states.all_token_ids.gpu[slots],
            self._states.prompt_len.gpu[slots, None],
            self._states.total_len.gpu[slots, None],
            logits.shape[1],
        )
        penalties = self._penalties.to(logits.device)[slots, None]
        return penalize(logits, is_repeated, penalties)


def _new_request(
    params: SamplingParams, prompt: list[int] | None, answer: list[int]
) -> tuple[float, list[int]] | None:
    """Return the state of a request with a penalty."""
    penalty = penalty_of(params)
    return None if penalty == 1 else (penalty, answer)


def __getattr__(name: str) -> Any:
    """Make the class of a name of :func:`processor_name`."""
    base, _, code = name.partition('_')
    if code and base in (RulesV1.__name__, RulesV2.__name__):
        stop = tuple(json.loads(bytes.fromhex(code)))
        return type(name, (globals()[base],), dict(stop=stop))
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
