# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The curation: its step "describe", and its ledger.

The step writes the descriptions of 256 images of the nano world into a new
ledger; the peer is the engine alone, which gets the same images decoded in
the same threads, all at the start. Answers have 48 tokens. The ledger is
measured with a step that does nothing, and with a million images that have a
result.

    python benchmarks/curation.py SIDE FOLDER
"""

import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness

IMAGES, SLOTS, TOKENS = 256, 8, 48
ROWS, MANY = 20_000, 1_000_000
PAGE = 50
TEXT = 'The image shows a red circle on a white background. ' * 8


def draw(folder: Path) -> None:
    """Draw the images."""
    from minigpt4.nano.world import render, sample_scene

    rng = random.Random(0)
    for i in range(IMAGES):
        render(sample_scene(rng), rng).save(folder / f'{i:03}.png')


def step(folder: Path) -> Callable:
    """The step, in a new ledger for each repetition."""
    from minigpt4.curation.describe import DescribeSettings, DescribeStep
    from minigpt4.curation.ledger import Ledger
    from minigpt4.curation.pipeline import plan, run_step
    from minigpt4.utils.signals import StopRequest

    describe = DescribeStep(
        DescribeSettings(
            device='cpu',
            slots=SLOTS,
            workers=1,
            generation=dict(min_new_tokens=TOKENS, max_new_tokens=TOKENS),
        )
    )
    images = [
        (hashlib.sha256(path.read_bytes()).hexdigest(), str(path), {})
        for path in sorted(folder.glob('*.png'))
    ]

    def work() -> list[str]:
        with (
            tempfile.TemporaryDirectory() as temporary,
            Ledger(Path(temporary) / 'ledger.sqlite') as ledger,
            StopRequest() as stop,
        ):
            ledger.add_images(images)
            (planned,) = plan(ledger, [describe])
            run_step(ledger, planned, stop)
            return [r.text for r in ledger.results(planned.number)]

    return work


def engine(folder: Path, prompt: str = '', **settings: Any) -> Callable:
    """The engine alone; an empty prompt is that of the step."""
    from concurrent.futures import ThreadPoolExecutor

    from mmengine.structures import BaseDataElement

    import minigpt4
    from minigpt4.curation.describe import PROMPT
    from minigpt4.generation.engine import Engine
    from minigpt4.images.read import load_image
    from minigpt4.prompts import Turn

    model = minigpt4.get_model('minigpt-4_nano_caption', device='cpu').eval()
    paths = sorted(map(str, folder.glob('*.png')))

    def work() -> list[str]:
        runner = Engine(model, slots=SLOTS)
        collator = model.collator(training=False)
        with ThreadPoolExecutor(1) as pool:
            tensors = pool.map(
                lambda path: load_image(path, model.image_size), paths
            )
            requests = []
            for tensor in tensors:
                sample = BaseDataElement(
                    images=[tensor], turns=[Turn(prompt or PROMPT)]
                )
                requests.append(
                    runner.submit(
                        collator.tokenize(sample),
                        sample.images,
                        min_new_tokens=TOKENS,
                        max_new_tokens=TOKENS,
                        **settings,
                    )
                )
        while not all(request.finished for request in requests):
            runner.step()
        return [request.answer().text for request in requests]

    return work


def build_worker(side: str, folder: Path) -> tuple[Callable, dict]:
    """The work of a side, and its texts."""
    work = dict(step=step, engine=engine)[side](folder)
    texts = work()

    def repeat() -> None:
        work()

    return repeat, dict(texts=texts)


def ledger_rows() -> Iterator[dict]:
    """The rows on the ledger alone; these figures are wall time."""
    from minigpt4.curation.history import histories
    from minigpt4.curation.ledger import Ledger, Result
    from minigpt4.curation.pipeline import count, plan, run_step
    from minigpt4.utils.signals import StopRequest

    class Nothing:
        name = 'nothing'
        settings: dict = {}

        def run(self, items):
            for item in items:
                yield Result(item.image.id, 'ok', TEXT, dict(tokens=90))

    def images(n: int) -> Iterator[tuple[str, str, dict]]:
        return ((f'{i:064}', f'/i/{i}.jpg', {}) for i in range(n))

    with tempfile.TemporaryDirectory() as temporary:
        with (
            Ledger(Path(temporary) / 'step.sqlite') as ledger,
            StopRequest() as stop,
        ):
            ledger.add_images(images(ROWS))
            (planned,) = plan(ledger, [Nothing()])
            start = time.perf_counter()
            run_step(ledger, planned, stop)
            seconds = time.perf_counter() - start
            stored = count(ledger, planned).ok
        yield harness.row(
            'curation ledger',
            1000 * seconds / ROWS,
            'ms/result',
            at_most=1,
            guard_ok=stored == ROWS,
            guard=f'{stored:,} results',
        )
        path = Path(temporary) / 'many.sqlite'
        with Ledger(path) as ledger:
            ledger.add_images(images(MANY))
            (planned,) = plan(ledger, [Nothing()])
            for start_id in range(1, MANY + 1, 50_000):
                ledger.add_results(
                    planned.number,
                    (
                        Result(i, 'ok', TEXT, dict(tokens=90))
                        for i in range(start_id, start_id + 50_000)
                    ),
                )
        start = time.perf_counter()
        with Ledger(path) as ledger:
            (planned,) = plan(ledger, [Nothing()])
            opened = time.perf_counter() - start
            found = ledger.num_images
            pages = []
            for page in range(20):
                start = time.perf_counter()
                shown = list(
                    histories(
                        ledger, [planned], after=page * MANY // 20, limit=PAGE
                    )
                )
                pages.append(time.perf_counter() - start)
            start = time.perf_counter()
            counted = count(ledger, planned)
            counting = time.perf_counter() - start
    guard = f'{found:,} images, {counted.ok:,} results, {len(shown)} a page'
    good = found == counted.ok == MANY and len(shown) == PAGE
    for name, seconds, limit in (
        ('open', opened, 1.0),
        ('page', max(pages), 0.1),
        ('status', counting, None),
    ):
        yield harness.row(
            f'curation {name}',
            seconds,
            's, 1,000,000 images',
            at_most=limit,
            guard_ok=good,
            guard=guard,
        )


def measure(repeats: int) -> Iterator[dict]:
    """The rows."""
    with tempfile.TemporaryDirectory() as temporary:
        draw(Path(temporary))
        yield harness.compare(
            'curation describe',
            *(
                harness.side('curation.py', side, temporary)
                for side in ('step', 'engine')
            ),
            'images/CPU-s',
            0.95,
            peer_name='the engine alone',
            per=IMAGES,
            repeats=repeats,
        )
    yield from ledger_rows()


if __name__ == '__main__':
    harness.worker(lambda: build_worker(sys.argv[1], Path(sys.argv[2])))
