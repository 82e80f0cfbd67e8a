# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Time of the training process to assemble a batch of 64.

The vision encoder is replaced by stored image features. In ours the training
process embeds the tokens of a collated batch and copies image features to
their positions; the peer tokenises, embeds and joins sample by sample. A
second row counts synchronisations: reads of a tensor's value by Python, each
of which would wait for a GPU. The time of our data workers is printed to
stderr; that of the peer includes it.
"""

import functools
import sys
import time
from pathlib import Path

import harness
import mini_prop
import torch
from torch.utils._python_dispatch import TorchDispatchMode

COUNT, MAX_TEXT_LENGTH = 64, 160
IMAGE = '<Img><ImageHere></Img>'


class Syncs(TorchDispatchMode):
    """Counts reads of a tensor's value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Count ``.item()`` in all its forms."""
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return function(*args, **(kwargs or {}))


def _ours(folder: Path, tokens, questions, answers):
    model = mini_prop.build(
        folder,
        cached=True,
        prompt_template='vicuna_v0',
        max_text_length=MAX_TEXT_LENGTH,
    )
    model.head = torch.nn.Identity()  # the features are of the LLM's width
    collate = model.collator(training=True)
    samples = mini_prop.samples(questions, answers, tokens)
    start = time.process_time()
    batch = collate(samples)
    print(
        f'{(time.process_time() - start) * 1e3:.1f} ms in a data worker',
        file=sys.stderr,
    )
    (piece,) = batch['pieces']

    def assemble():
        data = model.data_preprocessor(piece, True)
        inputs = data['inputs']
        return model.embed_inputs(data['images'], inputs), inputs

    embedded, inputs = assemble()
    # the sum of all embeddings, and the targets, identify a batch
    prefix = model.decoder.embed_tokens(torch.tensor(inputs.prefix))
    total = embedded[inputs.sequence_ids > 0].double().sum(0)
    total += COUNT * prefix.double().sum(0)
    return assemble, total, inputs.targets


def _official(folder: Path, tokens, questions, answers):
    from official import OfficialModel

    model = OfficialModel(folder, '###', MAX_TEXT_LENGTH, encode=False)
    prompts = [
        f'###Human: {question} ###Assistant: ' for question in questions
    ]
    mask = torch.ones(tokens.shape[:2], dtype=torch.long)

    def assemble():
        return model.assemble(tokens, mask, prompts, answers)

    rows, masks, labels = assemble()
    total = rows[masks > 0].double().sum(0)
    # the last target of each sample is an input there as well
    last = torch.stack([row[row >= 0][-1] for row in labels])
    total -= model.words(last).double().sum(0)
    return assemble, total, labels[labels >= 0]


def build(side: str, figure: str, folder: Path):
    """The work of a side."""
    torch.set_num_threads(1)
    sizes = mini_prop.SIZES[(folder / 'size').read_text()]
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(
        COUNT,
        sizes['num_queries'],
        sizes['llm']['hidden_size'],
        generator=generator,
    )
    questions = [f'{IMAGE} {mini_prop.ALIGNMENT_PROMPTS[0]}'] * COUNT
    answers = mini_prop.captions(COUNT, 6, 14)
    prepare = dict(ours=_ours, peer=_official)[side]
    with torch.no_grad():
        assemble, total, targets = prepare(folder, tokens, questions, answers)

    @torch.no_grad()
    def work():
        if figure == 'time':
            assemble()
            return None
        with Syncs() as syncs:
            assemble()
        return float(syncs.count)

    guard = dict(
        embeddings=total.numpy(),
        # a pack has the samples in another order
        targets=targets.sort().values.numpy(),
    )
    return work, guard


def measure(repeats: int) -> list[dict]:
    """The rows."""
    folder = mini_prop.weights()
    run = functools.partial(
        harness.compare,
        peer_name='official step, reimplemented',
        rate=False,
    )
    sides = {
        figure: [
            harness.side(__file__, side, figure, folder)
            for side in ('ours', 'peer')
        ]
        for figure in ('time', 'syncs')
    }
    return [
        run(
            'step-host',
            *sides['time'],
            'ms/64 samples',
            25,
            scale=1e3,
            at_most=2,
            repeats=max(repeats, 20),
        ),
        run(
            'step-host syncs',
            *sides['syncs'],
            'syncs/64 samples',
            None,
            at_most=0,
            repeats=1,
        ),
    ]


if __name__ == '__main__':
    harness.worker(lambda: build(*sys.argv[1:3], Path(sys.argv[3])), 5)
