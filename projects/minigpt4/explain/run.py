# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 explain``: one image, one answer, one page."""

import argparse
import sys

from ..captioning.inferencer import make_sample
from ..images.read import load_image
from ..images.thumbnail import data_url, thumbnail_of_file
from ..loading import load_model, quiet_logs
from ..utils.errors import printable
from ..utils.progress import progress_bar
from ..utils.signals import raise_on_signals
from .explanation import Explanation, explain
from .page import check_output, write_json, write_page

THUMBNAIL_SIDE = 768  # pixels of the image in the page
_QUALITY = 85  # of its JPEG file


def run_explain(args: argparse.Namespace) -> int:
    """Explain an answer; write the page, and the JSON if requested.

    Args:
        args: The options of ``minigpt4 explain``.

    Returns:
        0.

    Raises:
        ValueError: An argument is invalid, the image cannot be read, or the
            answer cannot be explained.
        OSError: A file cannot be read or written.
    """
    check_output(args.out, '-o')
    if args.json is not None:
        check_output(args.json, '--json')
    load_image(args.image, 8)  # its errors before the model is loaded
    thumbnail = data_url(
        thumbnail_of_file(args.image, THUMBNAIL_SIDE, _QUALITY)
    )
    note = 'nothing was written.'
    with raise_on_signals(note), quiet_logs(not args.quiet):
        model = load_model(args.model, args.pretrained, args.device)
        prompt = model.prompt if args.prompt is None else args.prompt
        sample = make_sample([args.image], prompt, model.image_size)
        with progress_bar(visible=not args.quiet) as bar:
            task = bar.add_task('omitted image tokens', total=None)
            explanation = explain(
                model,
                sample,
                args.max_new_tokens,
                args.batch_size,
                progress=lambda done, total: bar.update(
                    task, completed=done, total=total
                ),
            )
    data = dict(
        explanation.to_json(),
        image=printable(args.image.name),
        model=printable(args.model),
        pretrained=args.pretrained and printable(args.pretrained),
        prompt=printable(prompt),
    )
    write_page(data, thumbnail, args.out)
    if args.json is not None:
        write_json(data, args.json)
    if not args.quiet:
        _print_summary(explanation)
        print(f'page: {printable(str(args.out))}', file=sys.stderr)
    return 0


def _print_summary(explanation: Explanation, number: int = 5) -> None:
    """Print the answer, and the words that need the image most."""
    losses, words = explanation.losses, explanation.answer.words
    print(printable(explanation.answer.text))
    increase = losses.increase_without_image
    order = increase.argsort(descending=True, stable=True)[:number]
    for w in order.tolist():
        q = int(losses.increase[w].argmax())
        print(
            f'  {printable(words[w].text)}: {float(increase[w]):+.2f} nats '
            f'without the image, {float(losses.increase[w, q]):+.2f} without '
            f'{explanation.regions.names[q]}'
        )
