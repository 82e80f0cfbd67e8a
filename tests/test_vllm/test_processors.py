# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The logits processors, in the environment of vLLM.

``MINIGPT4_VLLM_PYTHON`` names its Python. Its first model runner is tested by
requests (test_serve.py); the second one needs a GPU, so its state is made up
here.
"""

import os
import subprocess

import pytest

PYTHON = os.environ.get('MINIGPT4_VLLM_PYTHON')
V2 = """
from types import SimpleNamespace as State
import numpy, torch
from minigpt4_vllm import processors
from vllm import SamplingParams

module, name = processors.processor_name(['###', 'end'], True).split(':')
assert module == 'minigpt4_vllm.processors'
rules = getattr(processors, name)
assert issubclass(rules, processors.RulesV2)
assert rules.stop == ('###', 'end')

params = SamplingParams(repetition_penalty=2.0, stop='x')
rules.validate_params(params)
assert params.stop == ['x', '###', 'end']
assert params.repetition_penalty == 1

# slots 0 and 3 of four have requests: prompt [5, 6], answer [1, 1]; [1], [2]
states = State(
    max_num_reqs=4,
    all_token_ids=State(
        gpu=torch.tensor([[5, 6, 1, 1], [9] * 4, [9] * 4, [1, 2, 0, 0]])
    ),
    prompt_len=State(gpu=torch.tensor([2, 0, 0, 1])),
    total_len=State(gpu=torch.tensor([4, 0, 0, 2])),
)
found = rules(None, states)
assert found.add_request(0, params)
assert not found.add_request(3, SamplingParams())
batch = State(
    idx_mapping_np=numpy.array([3, 0]),
    expanded_idx_mapping=torch.tensor([3, 0], dtype=torch.int32),
)
scores = found.apply(torch.ones(2, 10), batch)
assert scores[0].tolist() == [1] * 10
assert scores[1].tolist() == [1, 0.5] + [1] * 8
assert found.add_request(0, params) and found.add_request(3, params)
assert found.apply(torch.ones(2, 10), batch)[0, 2] == 0.5
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PYTHON is None, reason='MINIGPT4_VLLM_PYTHON names no Python with vLLM'
    ),
]


def test_the_second_model_runner():
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    environment.pop('PYTHONPATH', None)
    run = subprocess.run(
        [str(PYTHON), '-c', V2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
