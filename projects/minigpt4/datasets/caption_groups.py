# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Several captions of one image as one record, of which one is drawn."""

import random
from collections.abc import Sequence


def group_captions(records: Sequence[dict | None]) -> list[dict | None]:
    """Join the captions of each image.

    Args:
        records: Contents of :func:`~minigpt4.datasets.parse_records.
            read_record`; None for an invalid record.

    Returns:
        A record for each captioned image, at the place of its first caption,
        with the key ``captions`` (list of texts) and the name of the image as
        ``id``. Records of another kind (several images or turns, a question)
        are unchanged.
    """
    groups: dict[str, dict] = {}
    result: list[dict | None] = []
    for record in records:
        if record is None or not _is_caption(record):
            result.append(record)
            continue
        (name,) = record['images']
        if name not in groups:
            groups[name] = {**record, 'id': name, 'captions': []}
            result.append(groups[name])
        groups[name]['captions'].append(_caption(record))
    return result


def _is_caption(record: dict) -> bool:
    turns = record['turns']
    return (
        len(record['images']) == 1
        and len(turns) == 1
        and not turns[0].question
        and _caption(record) is not None
    )


def _caption(record: dict) -> str | None:
    """The answer of the only turn; in evaluation it is a key of the record."""
    answer = record['turns'][0].answer
    return record.get('answer') if answer is None else answer


def drawn_caption(number: int, num_captions: int, key: str) -> int:
    """Which caption of an image a pass over the data uses.

    Each group of ``num_captions`` passes uses every caption one time, in
    another order.

    Args:
        number: Number of the pass, from 0.
        num_captions: Number of captions.
        key: Seed of the order: that of the dataset with the image's name.
    """
    order = list(range(num_captions))
    random.Random(f'{key}-{number // num_captions}').shuffle(order)
    return order[number % num_captions]
