# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Draw the photographs of the docs with the small model's descriptions.

    python tools/draw_photo_examples.py PHOTO [PHOTO ...]

docs/small.md names the photographs and their licences. Descriptions are
greedy, so the same checkpoint gives the same image.
"""

import argparse
import io
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from minigpt4.utils.errors import add_debug_option, reports_errors

COLUMNS = 3
WIDTH, HEIGHT = 300, 200  # of the largest photograph, in pixels
GAP = 12  # pixels between cells and around them
FONT_SIZE, LINE = 13, 17  # pixels
CHARACTERS = 46  # of a line of text
COLORS = 96  # of the palette
OUT = Path(__file__).parents[1] / 'docs/images/small.png'


def draw(photos: Sequence[Image.Image], texts: Sequence[str]) -> Image.Image:
    """Draw photographs in rows of three, each with its text below.

    Args:
        photos: Photographs of any size; they are not cropped.
        texts: A text for each photograph; long lines are wrapped.
    """
    texts = ['\n'.join(textwrap.wrap(text, CHARACTERS)) for text in texts]
    rows = range(0, len(photos), COLUMNS)
    heights = [
        HEIGHT
        + LINE * max(text.count('\n') + 2 for text in texts[i : i + COLUMNS])
        for i in rows
    ]
    columns = min(COLUMNS, len(photos))
    page = Image.new(
        'RGB',
        (
            GAP + columns * (WIDTH + GAP),
            GAP + sum(heights) + GAP * len(heights),
        ),
        'white',
    )
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=FONT_SIZE)
    for i, (photo, text) in enumerate(zip(photos, texts, strict=True)):
        row, column = divmod(i, COLUMNS)
        x = GAP + column * (WIDTH + GAP)
        y = GAP + sum(heights[:row]) + GAP * row
        fitted = ImageOps.contain(photo, (WIDTH, HEIGHT))
        page.paste(fitted, (x, y + HEIGHT - fitted.height))
        pen.multiline_text(
            (x, y + HEIGHT + 6),
            text,
            fill='black',
            font=font,
            spacing=LINE - FONT_SIZE,
        )
    return page


@reports_errors
def main(argv: list[str] | None = None) -> None:
    """Describe the photographs, draw them, print the descriptions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('photos', nargs='+', type=Path, metavar='PHOTO')
    parser.add_argument('--model', default='minigpt-4_small_caption')
    parser.add_argument('--pretrained', help='a checkpoint of the projection')
    parser.add_argument('--out', type=Path, default=OUT)
    add_debug_option(parser)
    args = parser.parse_args(argv)
    import minigpt4
    from minigpt4.utils.atomic import write_atomically

    model = minigpt4.get_model(args.model, pretrained=args.pretrained or True)
    answers = minigpt4.inference_model(model, [*map(str, args.photos)])
    texts = [answer['pred_caption'] for answer in answers]
    photos = [
        ImageOps.exif_transpose(Image.open(path)).convert('RGB')
        for path in args.photos
    ]
    page = draw(photos, texts).quantize(COLORS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    page.save(buffer, 'PNG', optimize=True)
    write_atomically(args.out, buffer.getvalue())
    for path, text in zip(args.photos, texts, strict=True):
        print(f'{path.name}: {text}')
    print(f'{args.out}: {buffer.tell():,} bytes')


if __name__ == '__main__':
    sys.exit(main())
