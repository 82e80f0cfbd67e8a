# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A small ledger whose images took every path through a curation."""

import hashlib
from pathlib import Path

from PIL import Image

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.pipeline import plan, run_step
from minigpt4.curation.reviews import Review, text_digest
from minigpt4.utils.signals import StopRequest

GOOD = 'The image shows a red square on a grey wall, number {}.'
SORRY = "I'm sorry, I made a mistake."
FORMATS = ('JPEG', 'JPEG', 'PNG', 'JPEG', 'JPEG', 'JPEG')


class _Step:
    """A step whose results are in a table by image."""

    def __init__(self, name, results, **settings):
        self.name, self.settings = name, settings
        self._results = results

    def run(self, items):
        for item in items:
            found = self._results.get(item.image.id, {})
            yield Result(
                item.image.id,
                found.get('status', 'ok'),
                found.get('text', item.text),
                found.get('details', {}),
            )


def steps():
    """The automatic steps, as a run with settings gives them."""
    drafts = {
        n: dict(
            text=GOOD.format(n) + ' It it.' * (n == 2),
            details=dict(tokens=20 + n, finished=n != 3, seconds=0.5),
        )
        for n in range(1, 7)
    }
    drafts[6] = dict(status='failed', text='the image is damaged.')
    return [
        _Step('describe', drafts, model='nano', prompt='Describe it.'),
        _Step(
            'continue',
            {
                3: dict(
                    text=GOOD.format(3) + ' And on.',
                    details=dict(continued=True, finished=True),
                )
            },
        ),
        _Step(
            'repair',
            {
                2: dict(
                    text=GOOD.format(2),
                    details=dict(
                        changed=True,
                        cost_usd=0.25,
                        prompt_tokens=100,
                        completion_tokens=20,
                        flags=[dict(reason='number', text='It adds 2.')],
                    ),
                ),
                4: dict(text=SORRY, details=dict(cost_usd=0.5)),
            },
            model='repairer',
        ),
        _Step(
            'rules',
            {
                4: dict(
                    status='dropped',
                    text=SORRY,
                    details=dict(rule='apology', reason='It apologises.'),
                )
            },
        ),
    ]


def write_images(folder: Path) -> list[tuple[str, str, dict]]:
    """Write six images; the rows to add to a ledger."""
    folder.mkdir()
    rows = []
    for number, kind in enumerate(FORMATS, 1):
        path = folder / f'{number}.{kind.lower()}'
        Image.new('RGB', (40, 30), (40 * number, 80, 120)).save(path, kind)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        details = dict(source='camera', licence='CC0') if number < 4 else {}
        rows.append((digest, str(path), details))
    return rows


def make_ledger(folder: Path) -> Ledger:
    """Make a ledger in a folder.

    Images 1, 2, 3 and 5 pass all steps, 4 is dropped, 6 fails. 2 is
    repaired, 3 continued.
    """
    ledger = Ledger(folder / 'ledger.sqlite')
    ledger.add_images(write_images(folder / 'photos'))
    with StopRequest() as stop:
        for planned in plan(ledger, steps()):
            run_step(ledger, planned, stop)
    return ledger


def review(ledger, image, decision, reviewer='ann', text='', of=None):
    """Store a review of an image's present text."""
    final = of or GOOD.format(image) + ' And on.' * (image == 3)
    ledger.reviews.add(
        Review(image, text_digest(final), reviewer, decision, text or final)
    )
