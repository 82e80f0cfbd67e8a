# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Scenes of the nano world: sampled, split, drawn."""

import random

import numpy as np
import pytest

from minigpt4.nano.world import (
    BACKGROUNDS,
    CORNERS,
    MAX_TEST_SCENES,
    TEST_PARTS,
    Scene,
    Thing,
    render,
    sample_scene,
    sample_test_scenes,
)


def test_scenes_are_distinct_things_in_raster_order():
    rng = random.Random(0)
    for _ in range(300):
        scene = sample_scene(rng)
        corners = [CORNERS.index(t.corner) for t in scene.things]
        assert 1 <= len(corners) <= 3
        assert corners == sorted(set(corners))
        assert len({(t.color, t.shape) for t in scene.things}) == len(corners)


def test_training_never_meets_a_held_out_scene():
    rng = random.Random(0)
    train = {sample_scene(rng) for _ in range(3000)}
    test = {sample_scene(rng, held_out=True) for _ in range(300)}
    assert not train & test
    assert all(scene.held_out for scene in test)


def test_test_scenes_are_distinct_and_of_one_seed():
    seeds = range(5, 5 + TEST_PARTS)
    drawn = [
        sample_test_scenes(random.Random(seed), 500, seed) for seed in seeds
    ]
    assert all(len(scenes) == 500 for scenes in drawn)
    every = {scene for scenes in drawn for scene in scenes}
    assert len(every) == 500 * TEST_PARTS  # none occurs twice
    assert all(scene.held_out for scene in every)
    for scenes in drawn:  # of one, two and three shapes
        assert {len(scene.things) for scene in scenes} == {1, 2, 3}


def test_more_test_scenes_than_can_be_drawn_are_refused():
    with pytest.raises(ValueError, match='at most 20,000 distinct'):
        sample_test_scenes(random.Random(0), MAX_TEST_SCENES + 1, 0)


def test_scene_survives_json():
    scene = sample_scene(random.Random(3))
    assert Scene.from_dict(scene.to_dict()) == scene


def test_image_shows_the_object_at_its_position():
    scene = Scene('white', (Thing('top right', 'large', 'red', 'square'),))
    pixels = np.asarray(render(scene, random.Random(0))).astype(int)
    assert pixels.shape == (64, 64, 3)
    assert pixels[16, 48, 0] > 180 and pixels[16, 48, 1] < 80  # red there
    for row, column in ((16, 16), (48, 16), (48, 48)):  # background elsewhere
        assert abs(pixels[row, column] - BACKGROUNDS['white']).max() <= 2


def test_drawing_is_a_function_of_the_seed():
    scene = sample_scene(random.Random(1))
    first, second, other = (
        np.asarray(render(scene, random.Random(seed))) for seed in (5, 5, 6)
    )
    assert (first == second).all()
    assert (first != other).any()
