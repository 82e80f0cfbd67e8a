# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write the nano data set in the formats of the real one."""

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from . import grammar
from .preference_pairs import write_pairs
from .variant_texts import narrative, questions
from .world import Scene, render, sample_scene, sample_test_scenes

TEST_TASKS = ('describe', 'poem', 'count', 'color', 'place')


def write_dataset(
    folder: Path,
    pairs: int = 12000,
    per_shard: int = 1000,
    descriptions: int = 3500,
    test_scenes: int = 500,
    seed: int = 0,
    preferences: int = 0,
) -> None:
    """Render the data of stage 1, stage 2 and the held-out test.

    - ``stage1/{a,b}/00000.tar``: web captions as img2dataset writes them,
      about three quarters in ``a``, the rest in ``b``;
    - ``stage2/filter_cap.json`` and ``stage2/image/``: descriptions as in
      ``cc_sbu_align``; for the variants of stage 2 ``questions.json`` and
      ``narratives.json`` about the same images;
    - ``test/test.json`` and ``test/image/``: distinct held-out scenes with a
      question of each task, none of them in the test data of the three
      seeds before or after; ``test/descriptions.json``: their descriptions;
    - ``preference/preference.jsonl`` and ``preference/image/``: pairs of a
      right and a worse description, for training after stage 2;
      ``test/preference.jsonl``: pairs of the held-out scenes.

    Args:
        folder: The folder to write into.
        pairs: Number of image-caption pairs of stage 1.
        per_shard: Largest number of pairs in a shard.
        descriptions: Number of described images of stage 2.
        test_scenes: Number of held-out scenes.
        seed: Seed of scenes, images and captions.
        preferences: Number of preference pairs, of images of their own.

    Raises:
        ValueError: More test scenes than there are distinct ones.
    """
    test_rng = random.Random(f'test {seed}')
    held_out = sample_test_scenes(test_rng, test_scenes, seed)
    for old in folder.glob('stage1/[ab]/*.tar'):
        old.unlink()  # the configs read all shards of a folder
    rng = random.Random(f'stage 1 {seed}')
    # the images stay the same if captions are written in another way
    text_rng = random.Random(f'captions {seed}')
    if pairs <= per_shard:
        per_shard = max(1, pairs // 2)  # both folders get a shard
    shards = -(-pairs // per_shard)
    first_of_b = min(-(-3 * shards // 4), shards - 1)
    for shard in range(shards):
        in_b = shard >= first_of_b
        name = f'{shard - first_of_b if in_b else shard:05d}.tar'
        number = min(per_shard, pairs - shard * per_shard)
        shard_file = folder / 'stage1' / 'ab'[in_b] / name
        _write_shard(shard_file, number, rng, text_rng)

    rng = random.Random(f'stage 2 {seed}')
    annotations, described = [], []
    for number in range(descriptions):
        scene = sample_scene(rng)
        described.append(scene)
        _save(scene, rng, folder / 'stage2' / 'image' / f'{number}.jpg')
        annotations.append(
            dict(image_id=str(number), caption=grammar.description(scene))
        )
    _dump(folder / 'stage2' / 'filter_cap.json', dict(annotations=annotations))
    _write_variants(folder / 'stage2', described, seed)

    records, captions = [], []
    scenes = {}
    for number, scene in enumerate(held_out):
        scenes[f'image/{number}.jpg'] = scene
        _save(scene, test_rng, folder / 'test' / 'image' / f'{number}.jpg')
        captions.append(
            dict(image_id=str(number), caption=grammar.description(scene))
        )
        for task in TEST_TASKS:
            pair = grammar.question(task, scene, test_rng)
            if pair is not None:
                records.append(
                    dict(
                        id=f'{number}-{task}',
                        image=f'{number}.jpg',
                        question=pair[0],
                        answer=pair[1],
                        task=task,
                        scene=scene.to_dict(),
                    )
                )
    _dump(folder / 'test' / 'test.json', records)
    _dump(folder / 'test' / 'descriptions.json', captions)
    if preferences:
        _write_preferences(folder, preferences, scenes, seed)


def _write_preferences(
    folder: Path, number: int, test_scenes: dict[str, Scene], seed: int
) -> None:
    """Write the pairs of new images, and those of the held-out scenes."""
    rng = random.Random(f'preference {seed}')
    scenes = {}
    for i in range(number):
        scene = scenes[f'image/{i}.jpg'] = sample_scene(rng)
        _save(scene, rng, folder / 'preference' / 'image' / f'{i}.jpg')
    write_pairs(folder / 'preference' / 'preference.jsonl', scenes, rng)
    write_pairs(folder / 'test' / 'preference.jsonl', test_scenes, rng)


def _write_variants(folder: Path, scenes: list[Scene], seed: int) -> None:
    """Write the other texts about the images of stage 2.

    Args:
        folder: The folder of stage 2.
        scenes: The scene of each image.
        seed: Seed of the questions.
    """
    rng = random.Random(f'stage 2 questions {seed}')
    short_answers = [
        dict(
            id=f'{number}-{task}',
            image=f'{number}.jpg',
            question=question,
            answer=answer,
        )
        for number, scene in enumerate(scenes)
        for task, question, answer in questions(scene, rng)
    ]
    _dump(folder / 'questions.json', short_answers)
    narratives = [
        dict(image_id=str(number), caption=narrative(scene))
        for number, scene in enumerate(scenes)
    ]
    _dump(folder / 'narratives.json', dict(annotations=narratives))


def _jpeg(scene: Scene, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    render(scene, rng).save(buffer, 'JPEG', quality=95)
    return buffer.getvalue()


def _save(scene: Scene, rng: random.Random, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_jpeg(scene, rng))


def _dump(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1), encoding='utf-8')


def _write_shard(
    path: Path, number: int, rng: random.Random, text_rng: random.Random
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for i in range(number):
            scene = sample_scene(rng)
            text = grammar.caption(scene, text_rng)
            image = _jpeg(scene, rng)
            key = f'{path.stem}{i:04d}'
            info = dict(caption=text, key=key, status='success')
            for suffix, data in (
                ('jpg', image),
                ('json', json.dumps(info).encode()),
                ('txt', text.encode()),
            ):
                member = tarfile.TarInfo(f'{key}.{suffix}')
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def save_demo(path: Path, seed: int = 8) -> None:
    """Write the demo image: a held-out scene of three shapes, as PNG."""
    rng = random.Random(seed)
    while len((scene := sample_scene(rng, held_out=True)).things) < 3:
        pass
    image = render(scene, rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.resize((256, 256), Image.Resampling.LANCZOS).save(path)
