# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The reproduction with the small model, on real photographs.

The tests are protocols of the evaluation, on the held-out photographs.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..datasets.write_photos import DESCRIPTIONS_FILE
from ..model_files import model_files
from ..utils.json_files import read_json, read_json_lines
from ..utils.text_files import read_text
from ..weights.download import cache_folder
from .claims import STAGE_2_REPAIRS, three_layers
from .commands import minigpt4, tool
from .setups import (
    Example,
    Setup,
    Target,
    Test,
    Training,
    at_least,
    at_most,
    lengths_of,
    sizes_of,
)
from .steps import Step

_DATA = Path('data/photos')
_MODEL = 'minigpt-4_small_caption'
_CAPTIONS = 5000  # of the photographs, about; a share limits them
_PHOTOGRAPHS = 200  # of match and chair, at most
_ASKED = 100  # photographs of failures, as in the paper
_FEWEST = 4  # photographs of a shortened test
# costs in minutes of one core, about: see docs/reproduction.md
_STAGE_1_COST, _STAGE_2_COST = 4.6 / 60, 3.6 / 60  # of an iteration
# the code that makes the data, below the package
_CODE = (
    'datasets/caption*.py',
    'datasets/image_folder.py',
    'datasets/json_*.py',
    'datasets/photo_*.py',
    'datasets/record_*.py',
    'datasets/*_photos.py',
    'evaluation/coco_synonyms.json',
    'evaluation/object_words.py',
)


def small(photos: Path) -> Setup:
    """The reproduction on a folder of photographs with captions.

    Args:
        photos: The folder, see ``docs/small.md``.
    """
    photos = photos.resolve()
    return Setup(
        data=partial(_data, photos),
        sources=partial(_sources, photos),
        features={'patches': 2.0},
        trainings=_TRAININGS,
        tests=_tests(photos),
        columns=_COLUMNS,
        claims=_CLAIMS,
        goals=_GOALS,
        curves=(_LENGTH_CURVE, _SIZE_CURVE),
        limit=lambda share: max(20, round(_CAPTIONS * share)),
        descriptions=_descriptions,
    )


def _data(photos: Path, share: float) -> list[Step]:
    """The files of the photographs and the frozen parts."""
    words = str(photos), '--out', str(_DATA), '--stage2'
    command = tool('photo_data.py', *words)
    files, _ = model_files(_MODEL)
    fetched = [file.name for file in files if file.is_url]
    return [
        Step('data', command, cost=0.3, outputs=(str(_DATA),)),
        Step(
            'weights',
            minigpt4('download', _MODEL),
            outputs=tuple(str(cache_folder() / name) for name in fetched),
        ),
    ]


def _descriptions(folder: Path) -> int:
    path = folder / _DATA / DESCRIPTIONS_FILE
    content = read_json(path, 'the descriptions of stage 2')
    try:
        return len(content['annotations'])
    except (LookupError, TypeError) as error:
        raise ValueError(
            f'{path} has no list "annotations"; delete it, and the same '
            'command makes it again.'
        ) from error


def _sources(photos: Path) -> list[bytes]:
    """The code, and name, size and time of each file of the photographs."""
    package = Path(__file__).parents[1]
    code = sorted(file for name in _CODE for file in package.glob(name))
    facts = (
        [str(file), file.stat().st_size, file.stat().st_mtime_ns]
        for file in _files(photos)
    )
    return [
        *(file.read_bytes() for file in code),
        *(json.dumps(fact).encode() for fact in facts),
    ]


def _files(folder: Path) -> Iterator[Path]:
    """All files that are not hidden; links to folders are followed."""
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith('.'))
        for name in sorted(names):
            if not name.startswith('.') and Path(parent, name).is_file():
                yield Path(parent, name)


def _training(
    name: str, stage: int, start: str | None = None, variant: str = ''
) -> Training:
    config, second = (f'stage{i}_small{variant}.py' for i in (stage, 2))
    cost = _STAGE_1_COST if stage == 1 else _STAGE_2_COST
    return Training(
        name, config, second, cost, start=start, features='patches'
    )


_STAGE_2 = _training('stage2', 2, 'stage1')
_LENGTHS, _LENGTH_CURVE = lengths_of(_STAGE_2, (50, 100, 400, 800), 0.05)
_SIZES, _SIZE_CURVE = sizes_of(_STAGE_2, (35, 350))
_TRAININGS = (
    _training('stage1', 1),
    _STAGE_2,
    _training('stage1_b', 1, None, '_ablation_b'),
    _training('stage2_b', 2, 'stage1_b', '_ablation_b'),
    *_LENGTHS,
    *_SIZES,
)


# where the summary of a protocol has a score
_MATCH = {'preferred': ('preferred',), 'caption_loss': ('loss',)}
_CHAIR = {
    'recall': ('recall',),
    'chair_i': ('chair_i',),
    'detailed': ('detailed',),
    'finished': ('finished',),
    'describe_words': ('words',),
}
_FAILURES = {
    'describe_failures': ('caption', 'any'),
    'poem_failures': ('poem', 'any'),
}


def _tests(photos: Path) -> tuple[Test, ...]:
    images = '--images', str(photos)
    truth = '--truth', str(_DATA / 'objects_test.json')
    captions = '--annotations', str(_DATA / 'captions_test.json')
    held_out = '--images', str(_DATA / 'images_test.txt')
    match = 'match', '--template', 'bare', *captions, *images
    chair = 'chair', *truth, *images
    failures = 'failures', *truth, *held_out
    return (
        Test(
            'match',
            partial(_command, match, '--limit', _PHOTOGRAPHS),
            partial(_read, _MATCH),
            _count_match,
            cost=2.0,
        ),
        Test(
            'chair',
            partial(_command, chair, '--limit', _PHOTOGRAPHS),
            partial(_read, _CHAIR),
            _count_chair,
            cost=4.0,
        ),
        Test(
            'failures',
            partial(_command, failures, '--count', _ASKED),
            partial(_read, _FAILURES),
            _count_failures,
            6.0,
            _examples,
        ),
    )


def _command(
    words: tuple[str, ...], option: str, photographs: int, target: Target
) -> tuple[str, ...]:
    """A protocol of the evaluation, on a number of photographs."""
    number = max(_FEWEST, round(photographs * target.share))
    return minigpt4(
        *('eval', *words, option, str(number)),
        *('--model', target.config, '--pretrained', target.checkpoint),
        *('-o', target.folder, '--quiet'),
    )


def _read(
    places: Mapping[str, tuple[str, ...]], results: Path
) -> dict[str, float | None]:
    """The scores of the summary of a protocol."""
    found = {}
    for name, keys in places.items():
        score = _summary(results)['scores']
        for key in keys:
            score = score[key]
        value = score['value']
        if not isinstance(value, int | float | None):
            raise ValueError(f'{results}: {name} is {value!r}, not a number.')
        found[name] = value
    return found


def _count_match(folder: Path, results: Path) -> tuple[int, int]:
    found = _summary(results)
    return found['captions'], found['captions'] + found['skipped']


def _count_chair(folder: Path, results: Path) -> tuple[int, int]:
    """A photograph that is missing is not an error of ``chair``."""
    found = _summary(results)
    truth = json.loads(read_text(folder / _DATA / 'objects_test.json'))
    return found['captions'], min(found['settings']['limit'], len(truth))


def _count_failures(folder: Path, results: Path) -> tuple[int, int]:
    found = _summary(results)
    return found['answers'], found['answers'] + len(found['errors'])


def _summary(results: Path) -> dict[str, Any]:
    """What a protocol has measured."""
    return read_json(results / 'summary.json', 'the summary of a protocol')


def _examples(folder: Path, results: Path) -> Iterator[Example]:
    for _, row in read_json_lines(results / 'answers.jsonl'):
        if 'error' not in row:
            yield Example(
                str(row['number']),
                Path(row['image']),
                row['prompt'],
                row['answer'],
            )


_COLUMNS = {
    'preferred': 'own photograph preferred',
    'caption_loss': 'caption loss',
    'recall': 'objects found',
    'chair_i': 'objects invented',
    'describe_failures': 'descriptions broken',
    'poem_failures': 'poems broken',
    'detailed': '40 to 120 words',
    'finished': 'ended',
    'describe_words': 'words',
}
_CLAIMS = (*STAGE_2_REPAIRS, three_layers('preferred'), three_layers('recall'))
# those of the small model, for photographs of COCO
_GOALS = (
    at_least('stage1', 'preferred', 0.92),
    at_most('stage1', 'caption_loss', 2.75),
    at_least('stage2', 'recall', 0.3),
    at_most('stage2', 'chair_i', 0.35),
    at_least('stage2', 'detailed', 0.95),
    at_least('stage2', 'finished', 0.95),
)
