# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Scores of the nano model on test scenes that are new and distinct.

Until commit cdc31a1 scenes were drawn with repetition, and test data of other
seeds had some of them. In a checkout of that commit, for seeds 0, 1 and 2:
    python tools/nano_data.py --out seed0 --seed 0 --pairs 32 \
        --descriptions 32 --preferences 1 --test-scenes 500
Then here:
    python benchmarks/nano_new_scenes.py ANSWERS... --seen seed0/test/test.json
ANSWERS are the ``answers.jsonl`` of tests of ``minigpt4 reproduce``; the
scores are means over them.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt4.nano import NanoMetric


def scene_key(record: dict[str, Any]) -> str:
    """The scene of a record as a text."""
    return json.dumps(record['scene'], sort_keys=True)


def number(record: dict[str, Any]) -> str:
    """The number of the image of a record, such as 12 of ``12-poem``."""
    return record['id'].partition('-')[0]


def new_images(records: Sequence[dict], seen: set[str]) -> set[str]:
    """The first image of each scene that is not in ``seen``."""
    first: dict[str, str] = {}
    for record in records:
        first.setdefault(scene_key(record), number(record))
    return {image for key, image in first.items() if key not in seen}


def mean_scores(files: Sequence[Path], seen: set[str]) -> dict[str, float]:
    """Mean scores of some tests, over their new scenes."""
    each = []
    for file in files:
        records = [json.loads(line) for line in file.open(encoding='utf-8')]
        images = new_images(records, seen)
        kept = [record for record in records if number(record) in images]
        each.append(NanoMetric().compute_metrics(kept))
    return {
        name: statistics.fmean(scores[name] for scores in each)
        for name in each[0]
    }


def main() -> None:
    """Print the scores of distinct scenes, and of those that are new."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('answers', nargs='+', type=Path)
    parser.add_argument('--seen', nargs='+', type=Path, default=[])
    args = parser.parse_args()
    records = [json.loads(line) for line in args.answers[0].open()]
    images = {number(record) for record in records}
    distinct = new_images(records, set())
    print(f'{len(images)} images, {len(distinct)} distinct scenes')
    seen: set[str] = set()
    for file in args.seen:
        keys = {scene_key(record) for record in json.loads(file.read_text())}
        seen |= keys
        shared = {number(r) for r in records if scene_key(r) in keys}
        print(f'{len(shared)} images with scenes of {file}')
    print(f'{len(new_images(records, seen))} new distinct scenes')
    for name, value in mean_scores(args.answers, seen).items():
        print(f'{name:20} {value:.3f}')


if __name__ == '__main__':
    main()
