# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A small ledger with texts under review."""

import hashlib
from pathlib import Path

from PIL import Image

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.pipeline import plan

STEPS = ('describe', 'continue', 'repair', 'rules')


class NamedStep:
    """A step that is never run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = dict(version=1)

    def run(self, items):
        raise NotImplementedError


def step_numbers(ledger: Ledger) -> dict[str, int]:
    planned = plan(ledger, [NamedStep(name) for name in STEPS])
    return {step.step.name: step.number for step in planned}


def final_text(number: int) -> str:
    return f'Image {number} shows a red car on a wide street. It is sunny.'


def make_ledger(
    folder: Path, number: int = 6, images: bool = True, steps=None
) -> Ledger:
    """Fill a ledger; ``steps`` are the automatic ones.

    The texts of images 1 and 2 have no flags; 3 has a warning of the rules,
    4 two flags of the repair guard; 5 invents an object; 6 has objects
    without one invented. Further ones are as 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / 'curation.sqlite')
    rows = []
    for i in range(1, number + 1):
        path = folder / f'image{i}.png'
        if images:
            Image.new('RGB', (64, 48), (40 * i % 255, 90, 120)).save(path)
        details = dict(source=f'set {i}', licence='CC0')
        if i == 5:
            details['objects'] = ['dog', 'person']
        if i == 6:
            details['objects'] = ['car']
        digest = f'{i:064x}'
        if images:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append((digest, str(path), details))
    ledger.add_images(rows)
    planned = plan(ledger, steps or [NamedStep(name) for name in STEPS])
    for step in planned:
        ledger.add_results(
            step.number,
            [result_of(step.step.name, i) for i in range(1, number + 1)],
        )
    return ledger


def result_of(step: str, number: int) -> Result:
    text = final_text(number)
    details: dict = {}
    if step == 'describe':
        text = f'Image {number} shows a car'
    elif step == 'continue':
        text = f'Image {number} shows a car on a street. It is sunny.'
    elif step == 'repair' and number == 4:
        details['flags'] = [
            dict(reason='object', text='The repair adds "horse".'),
            dict(reason='number', text='The repair adds "two".'),
        ]
    elif step == 'rules' and number == 3:
        details['flags'] = [dict(reason='short', text='The text is short.')]
    return Result(number, 'ok', text, details)
