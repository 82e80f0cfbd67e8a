# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Compare our tiny MiniGPT4 with a peer's, in the peer's environment.

    python tests/parity/make_references.py PEER [--python P] [--write]

PEER is ``blip2`` (transformers) or ``mmpretrain`` (MMPretrain's MiniGPT4, see
``compare_mmpretrain.sh``). Both sides get the same weights, the peer's
through ``minigpt4.weights.layouts``. It prints the worst absolute difference
of every stage and fails above the tolerance. ``--write`` stores the peer's
outputs in ``references/PEER.safetensors``, with the peer's versions in the
file's metadata, for ``test_references.py``.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import (
    BATCHES,
    IMAGE_TOKEN,
    MMPRETRAIN_TEMPLATE,
    NEW_TOKENS,
    SIZES,
    build,
    digest,
    our_outputs,
    peer_inputs,
    peer_outputs,
    peer_weights,
    save_llm,
    worst_differences,
)

REFERENCES = Path(__file__).parent / 'references'
TOLERANCE = 1e-5
KEPT_LOGITS = (
    2  # the last positions of each sequence, which attend to all others
)
# layout of the weights, template, and batch of each peer
PEERS = dict(
    blip2=('huggingface', 'vicuna_v0', 'conversation'),
    mmpretrain=('mmpretrain', MMPRETRAIN_TEMPLATE, 'single'),
)


def run_peer(python: str, peer: str, folder: Path) -> tuple[dict, str]:
    """The peer's outputs, and its versions."""
    script = Path(__file__).parent / 'peer_process.py'
    # only with the packages of its own environment
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    subprocess.run(
        [python, '-W', 'ignore', script, peer, folder],
        check=True,
        env=environment,
    )
    file = folder / 'outputs.safetensors'
    with safe_open(file, 'pt') as tensors:
        return load_file(file), tensors.metadata()['peer']


def main() -> None:
    """Compare with one peer, and store its outputs if requested."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('peer', choices=PEERS)
    parser.add_argument(
        '--python', default=sys.executable, help="of the peer's environment"
    )
    parser.add_argument(
        '--write', action='store_true', help='keep its outputs as reference'
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a fixed order of sums
    peer = arguments.peer
    layout, template, batch = PEERS[peer]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        llm = save_llm(folder / 'llm')
        model = build(llm, template)
        weights = peer_weights(model, layout, llm)
        inputs = peer_inputs(model, batch)
        save_file(weights, folder / 'weights.safetensors')
        save_file(inputs, folder / 'inputs.safetensors')
        question, answer = BATCHES[batch][0]
        settings = dict(
            sizes=SIZES,
            image_token=IMAGE_TOKEN,
            new_tokens=NEW_TOKENS,
            question=question,
            answer=answer,
        )
        (folder / 'settings.json').write_text(json.dumps(settings))
        theirs, versions = run_peer(arguments.python, peer, folder)
    theirs = peer_outputs(theirs, inputs['attention_mask'])
    worst = worst_differences(our_outputs(model, batch), theirs)
    print(f'ours against {peer} ({versions}), fp32, worst absolute difference')
    for name, value in worst.items():
        scale = theirs[name].abs().max().item()
        print(f'  {name:12} {value:8.1e}  of values up to {scale:.3g}')
    bad = [name for name, value in worst.items() if not value <= TOLERANCE]
    if bad:
        raise SystemExit(f'above {TOLERANCE}: {", ".join(bad)}')
    print(f'all within {TOLERANCE}')
    if arguments.write:
        theirs['logits'] = theirs['logits'][:, -KEPT_LOGITS:].contiguous()
        save_file(
            theirs,
            REFERENCES / f'{peer}.safetensors',
            metadata=dict(
                peer=versions,
                inputs=digest(inputs),
                weights=digest(weights),
                date=datetime.date.today().isoformat(),
            ),
        )


if __name__ == '__main__':
    main()
