# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The complete model equals stored outputs of peers.

``references/*.safetensors`` contain outputs of MMPretrain 1.2.0's own
MiniGPT4 and of BLIP-2, both with transformers 4.49.0, which cannot always be
installed; ``make_references.py`` wrote them. Weights and inputs are drawn
again from their seeds.
"""

import subprocess
import sys

import make_references
import pytest
import tiny_model
import torch
from safetensors import safe_open
from safetensors.torch import load_file

# measured 3.1e-6 (mmpretrain) and 5.1e-6 (blip2), both in the logits,
# 2026-11-21
TOLERANCE = 1e-5


@pytest.mark.parametrize('peer', make_references.PEERS)
def test_model_equals_stored_outputs(tmp_path, peer):
    layout, template, batch = make_references.PEERS[peer]
    llm = tiny_model.save_llm(tmp_path / 'llm')
    model = tiny_model.build(llm, template)
    file = make_references.REFERENCES / f'{peer}.safetensors'
    theirs = load_file(file)
    with safe_open(file, 'pt') as tensors:
        made = tensors.metadata()
    assert 'transformers 4.49.0' in made['peer']
    # otherwise the seeds give other inputs, and no comparison is possible
    weights = tiny_model.peer_weights(model, layout, llm)
    inputs = tiny_model.peer_inputs(model, batch)
    assert tiny_model.digest(weights) == made['weights']
    assert tiny_model.digest(inputs) == made['inputs']
    ours = tiny_model.our_outputs(model, batch)
    ours['logits'] = ours['logits'][:, -make_references.KEPT_LOGITS :]
    assert torch.equal(ours.pop('ids'), theirs.pop('ids'))
    assert set(theirs) == set(ours)
    worst = tiny_model.worst_differences(ours, theirs)
    assert max(worst.values()) <= TOLERANCE, worst


@pytest.mark.slow
def test_comparison_runs_in_two_processes():
    """The comparison with MMPretrain, run with a peer that is installed."""
    run = subprocess.run(
        [sys.executable, make_references.__file__, 'blip2'],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert 'logits' in run.stdout and 'all within 1e-05' in run.stdout
