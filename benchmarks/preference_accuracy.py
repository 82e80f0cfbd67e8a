# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Share of preference pairs that a model ranks right, before and after DPO.

```shell
python benchmarks/preference_accuracy.py configs/minigpt4/dpo_nano.py \
    work_dirs/dpo_nano/iter_40.pth data/nano/test
```

A checkpoint of DPO contains the weights from before, too. A pair is ranked
right where the chosen answer is more likely than the rejected one. The reward
accuracy is the share of pairs in which DPO made the chosen answer more likely
compared to the rejected one. Pairs that were not trained on state more.
"""

import argparse
from collections.abc import Iterator

import torch
from mmengine.config import Config
from torch import Tensor

from minigpt4.datasets import PreferenceDataset
from minigpt4.loading import quiet_logs
from minigpt4.models import MiniGPT4
from minigpt4.registry import MODELS
from minigpt4.weights.checkpoint_files import read_checkpoint


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='a config of DPO')
    parser.add_argument('checkpoint', help='of that config')
    parser.add_argument('data', help='folder of preference.jsonl')
    parser.add_argument('--batch', type=int, default=20)
    args = parser.parse_args(argv)
    cfg = Config.fromfile(args.config)
    with quiet_logs():
        model = load(cfg, args.checkpoint)
        dataset = PreferenceDataset(
            data_root=args.data,
            pipeline=cfg.train_dataloader.dataset.pipeline,
        )
        pairs = list(score(model, dataset, args.batch))
    after, before = (torch.cat(scores, 1) for scores in zip(*pairs))
    margins = (after[0] - after[1]) - (before[0] - before[1])
    print(f'{len(margins)} pairs, {len(dataset) - len(margins)} skipped')
    for name, scores in (('before', before), ('after', after)):
        right = (scores[0] > scores[1]).float().mean()
        difference = (scores[0] - scores[1]).mean()
        print(
            f'{name}: ranked right {right:.3f}, log-probability of chosen '
            f'{scores[0].mean():.2f}, chosen - rejected {difference:.2f} nats'
        )
    print(
        f'reward accuracy {(margins > 0).float().mean():.3f}, margin '
        f'{model.preference.beta * margins.mean():.3f}'
    )


def load(cfg: Config, checkpoint: str) -> MiniGPT4:
    """Build a model with its weights and those from before."""
    model = MODELS.build(cfg.model)
    entries = read_checkpoint(checkpoint)
    model.load_state_dict(entries['state_dict'], strict=False)
    if 'reference' not in entries:
        raise SystemExit(
            f'{checkpoint} has no reference model; expected a checkpoint of '
            'a DPO config.'
        )
    model.preference.set_reference(model, entries['reference'])
    return model.eval()


@torch.no_grad()
def score(
    model: MiniGPT4, dataset: PreferenceDataset, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield log-probabilities after and before, ``(2, pairs)`` each."""
    collate = model.train_collator()
    for start in range(0, len(dataset), batch):
        numbers = range(start, min(start + batch, len(dataset)))
        for piece in collate([dataset[i] for i in numbers])['pieces']:
            piece = model.data_preprocessor(piece, True)
            yield model.preference.scores(
                model, piece['images'], piece['inputs']
            )


if __name__ == '__main__':
    main()
