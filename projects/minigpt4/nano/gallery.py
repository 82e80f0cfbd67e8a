# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Show the results of the quickstart: a table, an image and a page."""

import base64
import json
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ..captioning.inferencer import get_model, inference_model
from ..images.captioned_figure import captioned
from ..utils.html_page import HtmlPage, html_text
from ..utils.regular_files import read_regular
from ..utils.text_files import read_text
from . import grammar
from .world import Scene

MODEL = 'minigpt-4_nano_caption'
_PAGE = HtmlPage(
    'MiniGPT-4 nano',
    'a gallery',
    style="""
main { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
article { display: flex; gap: 1rem; padding: 1rem;
  border: 1px solid var(--line); border-radius: 10px; }
img { width: 160px; height: 160px; border-radius: 6px; }
dl { margin: 0; }
dt { font-size: 12px; color: var(--dim); }
dd { margin: 0 0 .6rem; }
.poem { white-space: pre-line; font-style: italic; }
""",
)
SCORES = {  # name in NanoMetric: (title, goal)
    'recall': ('shapes found', '>= 0.95'),
    'chair_i': ('shapes invented (CHAIR_i)', '<= 0.03'),
    'describe_exact': ('descriptions exactly right', '>= 0.80'),
    'poem': ('poems right (never trained with images)', '>= 0.80'),
    'count': ('counts right (never trained with images)', '>= 0.80'),
    'color': ('colours right (never trained with images)', '>= 0.80'),
    'place': ('places right (never trained with images)', '>= 0.80'),
    'describe_failures': ('broken descriptions', '>= 0.20, then <= 0.02'),
    'poem_failures': ('broken poems', '>= 0.20, then <= 0.02'),
    'describe_irrelevant': ('irrelevant descriptions', ''),
    'poem_irrelevant': ('irrelevant poems', ''),
}


def show_table(before: dict, after: dict) -> None:
    """Print the scores after stage 1 and after stage 2.

    Args:
        before: Scores of ``tools/test.py`` after stage 1.
        after: The same after stage 2.
    """
    table = Table(title='500 held-out scenes of the nano world')
    for column in ('', 'after stage 1', 'after stage 2', 'goal'):
        table.add_column(column, justify='left' if not column else 'right')
    for key, (name, goal) in SCORES.items():
        table.add_row(
            name,
            *(_show(scores.get(f'nano/{key}')) for scores in (before, after)),
            goal,
        )
    Console(width=100).print(table)


def _show(score: float | None) -> str:
    return '-' if score is None else f'{score:.3f}'


def write_gallery(
    data: Path, stage1: str, stage2: str, out: Path, number: int = 8
) -> list[Path]:
    """Caption held-out scenes with both checkpoints, and draw them.

    Args:
        data: Folder of the nano data set.
        stage1: Checkpoint after stage 1.
        stage2: Checkpoint after stage 2.
        out: Folder of the gallery.
        number: Number of scenes.

    Returns:
        The page ``index.html`` (self-contained) and ``gallery.png``.
    """
    items = json.loads(read_text(data / 'test' / 'test.json'))
    references = [item for item in items if item['task'] == 'describe'][
        :number
    ]
    files = [
        str(data / 'test' / 'image' / item['image']) for item in references
    ]
    columns = []
    for checkpoint in (stage1, stage2):
        model = get_model(MODEL, pretrained=checkpoint)
        columns.append(
            [
                output['pred_caption']
                for output in inference_model(model, files)
            ]
        )
    poems = [
        output['pred_caption']
        for output in inference_model(model, files, prompt=grammar.POEM[0])
    ]
    results = [
        dict(
            file=file,
            reference=item['answer'],
            scene=Scene.from_dict(item['scene']),
            stage1=first,
            stage2=second,
            poem=poem,
        )
        for file, item, first, second, poem in zip(
            files, references, *columns, poems, strict=True
        )
    ]
    out.mkdir(parents=True, exist_ok=True)
    page, image = out / 'index.html', out / 'gallery.png'
    _PAGE.write(page, _content(results))
    _render_image(results).save(image)
    return [page, image]


def _render_image(results: list[dict]) -> Image.Image:
    """Draw all scenes with their captions, four in a line."""
    panels = [
        captioned(
            Image.open(result['file']),
            f'STAGE 1: {result["stage1"][:160]}\n\n'
            f'STAGE 2: {result["stage2"]}\n\nPOEM: {result["poem"]}',
        )
        for result in results
    ]
    height = max(len(panel) for panel in panels)
    panels = [
        np.pad(
            panel,
            ((0, height - len(panel)), (0, 12), (0, 0)),
            constant_values=255,
        )
        for panel in panels
    ]
    lines = [
        np.concatenate(panels[i : i + 4], axis=1)
        for i in range(0, len(panels) - 3, 4)
    ]
    return Image.fromarray(np.concatenate(lines))


def _content(results: list[dict]) -> list[str]:
    """Content of the HTML page."""
    cards = []
    for result in results:
        image = base64.b64encode(read_regular(result['file'])).decode()
        is_correct = result['stage2'] == result['reference']
        texts = ''.join(
            f'<dt>{title}</dt><dd class="{style}">{html_text(text)}</dd>'
            for title, style, text in (
                ('After stage 1', 'dim', result['stage1'] or '(nothing)'),
                (
                    'After stage 2',
                    'good' if is_correct else 'bad',
                    result['stage2'],
                ),
                ('Reference', '', result['reference']),
                ('A poem, never trained with images', 'poem', result['poem']),
            )
        )
        cards.append(
            f'<article><img src="data:image/jpeg;base64,{image}" '
            f'alt="{html_text(result["reference"])}"><dl>{texts}</dl>'
            '</article>'
        )
    return [
        '<h1>MiniGPT-4, nano</h1>',
        '<p>Held-out scenes. Vision and language model are frozen; one linear '
        'layer was trained, on captions (stage 1) and then on detailed '
        'descriptions (stage 2). Green: identical to the reference.</p>',
        f'<main>{"".join(cards)}</main>',
    ]
