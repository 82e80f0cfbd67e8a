# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The reproduction with the nano model, on rendered scenes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..engine.hooks.scored_records import SCORED, SKIPPED
from ..utils.json_files import read_json, read_json_lines
from .claims import STAGE_2_REPAIRS, Claim, three_layers
from .commands import tool
from .setups import (
    Example,
    Part,
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

_DATA = Path('data/nano')
_CAPTIONS_LLM = 'weights/nano_captions'
_NUMBERS = {
    '--pairs': 12000,
    '--descriptions': 3500,
    '--preferences': 1200,
    '--test-scenes': 500,
}
# Costs are minutes of one core of an Intel Xeon, 2026-11-30. These are of one
# iteration; a trained Q-Former needs the images.
_COST, _COST_OF_IMAGES = 0.0026, 0.0047
# Settings were chosen on data of seeds 0 to 2; docs/reproduction.md.
_DATA_SEED = '3'
_LLM_STEPS = 800  # of the LLM that knows captions only
_QUESTIONS = ('count', 'color', 'place')


def _data(share: float) -> list[Step]:
    words = ['--seed', _DATA_SEED]
    for option, number in _NUMBERS.items():
        words += [option, str(max(20, round(number * share)))]
    command = tool('nano_data.py', '--out', str(_DATA), *words)
    outputs = (str(_DATA),)
    step = Step('data', command, cost=0.1, outputs=outputs, in_report=True)
    return [step]


def _sources() -> list[bytes]:
    """The code that makes the data, and the frozen weights."""
    folder = Path(__file__).parents[1] / 'nano'
    files = sorted(folder.glob('*.py'))
    files += sorted(
        path
        for path in (folder / 'weights').rglob('*')
        if path.is_file() and path.suffix != '.pth'
    )
    return [file.read_bytes() for file in files]


def _ablation(letter: str, features: str | None) -> tuple[Training, ...]:
    first, second = (f'stage{i}_nano_ablation_{letter}.py' for i in (1, 2))
    names = f'stage1_{letter}', f'stage2_{letter}'
    cost = _COST if features else _COST_OF_IMAGES
    return (
        Training(names[0], first, second, cost, features=features),
        Training(names[1], second, second, cost, names[0], (), features),
    )


def _captions_llm(share: float) -> tuple[str, ...]:
    """The command that makes the LLM of ``stage1_nano_blip2.py``."""
    options = '--parts', 'llm', '--captions-only', '--llm-steps'
    steps = max(1, round(_LLM_STEPS * share))
    out = '--out', _CAPTIONS_LLM
    return tool('build_nano.py', *options, str(steps), *out)


def _blip2() -> tuple[Training, ...]:
    """BLIP-2: an LLM that cannot chat, aligned; then stage 2 with it."""
    first, second = 'stage1_nano_blip2.py', 'stage2_nano_blip2_ft.py'
    aligned = Training(
        *('blip2', first, second, _COST),
        features='queries',
        part='captions_llm',
    )
    tuned = aligned._replace(name='blip2_ft', config=second, start='blip2')
    return aligned, tuned


def _from(start: str, name: str, config: str) -> Training:
    """A training that starts from another one."""
    return Training(
        name, config, config, _COST, start=start, features='queries'
    )


_STAGE_2 = _from('stage1', 'stage2', 'stage2_nano.py')
_LENGTHS, _LENGTH_CURVE = lengths_of(_STAGE_2, (100, 200, 800, 1600), 0.1)
_SIZES, _SIZE_CURVE = sizes_of(_STAGE_2, (35, 350))


def _test(target: Target) -> tuple[str, ...]:
    return tool(
        'test.py',
        *(target.config, target.checkpoint),
        *('--work-dir', f'{target.folder}/log'),
        *('--out', f'{target.folder}/scores.json', '--cfg-options'),
        f'test_evaluator.answers_file={target.folder}/answers.jsonl',
    )


def _read(results: Path) -> dict[str, float | None]:
    """The scores; ``questions`` is the mean of count, color and place.

    A score of a kind of question that the test does not have is None.
    """
    found: dict[str, float | None] = dict.fromkeys(NANO.columns)
    for key, value in _scores(results).items():
        name = key.rpartition('/')[2]
        if name in found:
            found[name] = value
    questions = [v for task in _QUESTIONS if (v := found[task]) is not None]
    if len(questions) == len(_QUESTIONS):
        found['questions'] = sum(questions) / len(questions)
    return found


def _count(folder: Path, results: Path) -> tuple[int, int]:
    found = _scores(results)
    scored = found.get(SCORED, 0)
    return scored, scored + found.get(SKIPPED, 0)


def _scores(results: Path) -> dict[str, Any]:
    """What ``tools/test.py`` has measured.

    Raises:
        ValueError: The file has something else.
    """
    path = results / 'scores.json'
    found = read_json(path, 'the scores of a test')
    if not isinstance(found, dict) or not all(
        isinstance(value, int | float) for value in found.values()
    ):
        raise ValueError(f'{path} does not have a number for each score.')
    return found


def _examples(folder: Path, results: Path) -> Iterator[Example]:
    """The descriptions and poems."""
    for _, row in read_json_lines(results / 'answers.jsonl'):
        if row['task'] in ('describe', 'poem'):
            scene = str(row['id']).partition('-')[0]
            yield Example(
                row['id'],
                folder / _DATA / 'test' / 'image' / f'{scene}.jpg',
                row['task'],
                row['pred_caption'],
                row['answer'],
            )


_TABLE_5 = 'section 4.4, table 5'
_BASE = 'A-OKVQA 58.2, GQA 32.2 to '
_CLAIMS = (
    *STAGE_2_REPAIRS,
    Claim(
        'after stage 2, poems are right that no image was ever paired with',
        '20 of 25; BLIP-2 0 of 25',
        'section 4.2, table 1',
        *('stage1', 'stage2', 'poem', 'up'),
    ),
    Claim(
        'BLIP-2, whose LLM cannot chat: worse poems',
        '20 of 25 to 0 of 25',
        'section 4.2, table 1',
        *('stage2', 'blip2', 'poem', 'down'),
    ),
    Claim(
        'BLIP-2 FT, stage 2 with this LLM: its answers stay short',
        'no figure',
        'section 4.3',
        *('stage2', 'blip2_ft', 'describe_words', 'down'),
    ),
    Claim(
        '(a) without a Q-Former: about the same',
        _BASE + '56.9, 33.4',
        _TABLE_5,
        *('stage2', 'stage2_a', 'questions', 'same'),
    ),
    three_layers('questions'),
    Claim(
        '(c) Q-Former trained too: not better',
        _BASE + '52.1, 28.0',
        _TABLE_5,
        *('stage2', 'stage2_c', 'questions', 'not up'),
    ),
    Claim(
        'LoRA and question data in stage 2: better',
        _BASE + '67.2, 43.5',
        'appendix A.2, table 6',
        *('stage2', 'finetune_vicuna', 'questions', 'up'),
    ),
    Claim(
        'Localized Narratives in stage 2: longer descriptions',
        'no figure',
        'section 4.3',
        *('stage2', 'locna', 'describe_words', 'up'),
    ),
)

NANO = Setup(
    data=_data,
    sources=_sources,
    features={'queries': 0.4, 'patches': 0.5},
    trainings=(
        Training(
            *('stage1', 'stage1_nano.py', 'stage2_nano.py', _COST),
            features='queries',
        ),
        _STAGE_2,
        *_ablation('a', 'patches'),
        *_ablation('b', 'queries'),
        *_ablation('c', None),
        _from('stage1', 'finetune_vicuna', 'stage2_nano_finetune_vicuna.py'),
        _from('stage1', 'locna', 'stage2_nano_locna.py'),
        _from('stage2', 'dpo', 'dpo_nano.py'),
        *_blip2(),
        *_LENGTHS,
        *_SIZES,
    ),
    tests=(Test('scenes', _test, _read, _count, 0.25, _examples),),
    columns={
        'recall': 'shapes found',
        'chair_i': 'shapes invented',
        'describe_exact': 'descriptions right',
        'count': 'counts right',
        'color': 'colours right',
        'place': 'places right',
        'poem': 'poems right',
        'describe_failures': 'descriptions broken',
        'poem_failures': 'poems broken',
        'describe_irrelevant': 'descriptions irrelevant',
        'poem_irrelevant': 'poems irrelevant',
        'questions': 'counts, colours and places right (mean)',
        'describe_words': 'words',
    },
    claims=_CLAIMS,
    goals=(
        at_least('stage1', 'describe_failures', 0.2),
        at_least('stage1', 'poem_failures', 0.2),
        at_most('stage2', 'describe_failures', 0.02),
        at_most('stage2', 'poem_failures', 0.02),
        at_least('stage2', 'recall', 0.95),
        at_most('stage2', 'chair_i', 0.03),
        *(
            at_least('stage2', score, 0.8)
            for score in ('describe_exact', 'count', 'color', 'place', 'poem')
        ),
    ),
    curves=(_LENGTH_CURVE, _SIZE_CURVE),
    parts={'captions_llm': Part(_captions_llm, 4.8, (_CAPTIONS_LLM,))},
)
