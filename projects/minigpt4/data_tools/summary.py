# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The figures of a check as JSON: ``summary.json`` and the report."""

import datetime
from collections.abc import Sequence
from typing import Any

from ..datasets.remote_shards import shown
from ..utils.errors import printable
from .find_data import FoundData
from .limits import KINDS, Count
from .manifest import Difference
from .scan import Scan
from .statistics import Numbers


def summarise(
    sources: Sequence[str],
    found: FoundData,
    scan: Scan,
    counts: Sequence[Count],
    differences: Sequence[Difference],
) -> dict[str, Any]:
    """Return the figures of a check.

    Args:
        sources: The sources of the command line.
        found: Its parts.
        scan: What was read.
        counts: The number of problems of each kind.
        differences: From the manifest.
    """
    from .. import __version__

    prompts = scan.prompts
    above = None
    if prompts is not None and prompts.max_text_length:
        above = scan.answer_tokens.share_above(prompts.max_text_length)
    over_context = None
    if prompts is not None and prompts.context_length:
        over_context = scan.prompt_tokens.share_above(prompts.context_length)
    return dict(
        tool=f'minigpt4 {__version__}',
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec='seconds'
        ),
        sources=[printable(shown(source)) for source in sources],
        records=scan.num_records,
        valid=scan.num_valid,
        turns=scan.num_turns,
        images=scan.known.count_images(),
        image_uses=scan.num_images,
        different_texts=scan.known.count_texts(),
        parts={
            printable(part.name): dict(
                kind=part.kind,
                records=scan.parts[part.name],
                held_out=part.held_out,
            )
            for part in found.parts
        },
        ignored=found.ignored,
        scripts=dict(scan.scripts.most_common()),
        model=None
        if prompts is None
        else dict(
            name=prompts.name,
            template=prompts.template_name,
            max_text_length=prompts.max_text_length,
            context_length=prompts.context_length,
            image_tokens=prompts.num_image_tokens,
        ),
        words=scan.words.summary(),
        characters=scan.characters.summary(),
        answer_tokens=scan.answer_tokens.summary(),
        prompt_tokens=scan.prompt_tokens.summary(),
        share_over_max_text_length=above,
        share_over_context=over_context,
        **{k: v.summary() for k, v in image_numbers(scan).items()},
        problems={
            count.kind: dict(
                title=KINDS[count.kind].title,
                count=count.number,
                share=round(count.share, 6),
                limit=None if count.limit is None else count.limit._asdict(),
                exceeded=count.exceeded,
            )
            for count in counts
        },
        differences=[difference._asdict() for difference in differences],
    )


def image_numbers(scan: Scan) -> dict[str, Numbers]:
    """Return width, height, aspect ratio and file size of the images."""
    numbers = {
        name: Numbers()
        for name in ('width', 'height', 'aspect_ratio', 'kilobytes')
    }
    for width, height, num_bytes in scan.known.sizes():
        numbers['width'].add(width)
        numbers['height'].add(height)
        numbers['aspect_ratio'].add(round(width / height, 3))
        numbers['kilobytes'].add(round(num_bytes / 1000, 1))
    return numbers
