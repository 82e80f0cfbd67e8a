# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The nano world: scenes of coloured shapes, sampled and drawn.

A scene is one to three shapes on a plain background, at most one in each
corner of the image. This module samples and renders scenes; ``grammar.py``
writes the texts about them.
"""

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

BACKGROUNDS = {
    'white': (250, 250, 250),
    'gray': (130, 130, 130),
    'black': (20, 20, 20),
}
COLORS = {
    'red': (220, 40, 40),
    'green': (40, 170, 60),
    'blue': (50, 80, 220),
    'yellow': (235, 205, 40),
    'purple': (140, 50, 170),
    'orange': (240, 140, 30),
}
CORNERS = ('top left', 'top right', 'bottom left', 'bottom right')
SHAPES = ('circle', 'square', 'triangle', 'star', 'cross')
SIZES = {'small': 0.55, 'large': 0.95}
IMAGE_SIZE = 64  # pixels; one corner is 32 x 32
_HELD_OUT = 10  # one of so many scenes is held out
TEST_PARTS = 4  # of the held-out scenes
MAX_TEST_SCENES = 20_000  # a part has about 60,000


@dataclass(frozen=True)
class Thing:
    """One shape of a scene."""

    corner: str
    size: str
    color: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """A background and its shapes, in raster order of the corners.

    No two shapes of a scene share both colour and shape, so that "the red
    circle" always means one of them.
    """

    background: str
    things: tuple[Thing, ...]

    @property
    def held_out(self) -> bool:
        """Whether the scene belongs to the tenth that is never trained on.

        Decided by a checksum of the scene itself, so it holds for the
        language model, the vision encoder, the Q-Former and the projection.
        """
        return self._checksum % _HELD_OUT == 0

    @property
    def test_part(self) -> int:
        """Part of the held-out scenes that it belongs to: 0 to 3."""
        return self._checksum // _HELD_OUT % TEST_PARTS

    @property
    def _checksum(self) -> int:
        return zlib.crc32(repr(self).encode())

    def to_dict(self) -> dict:
        """The scene as plain JSON types."""
        return dict(
            background=self.background,
            things=[vars(thing) for thing in self.things],
        )

    @classmethod
    def from_dict(cls, data: dict) -> 'Scene':
        """The inverse of :meth:`to_dict`."""
        things = tuple(Thing(**thing) for thing in data['things'])
        return cls(data['background'], things)


def sample_scene(rng: random.Random, held_out: bool = False) -> Scene:
    """Draw a scene of one to three shapes.

    Args:
        rng: Source of randomness.
        held_out: Draw from the held-out tenth instead of the rest.
    """
    while True:
        corners = rng.sample(range(len(CORNERS)), rng.randint(1, 3))
        kinds = rng.sample(
            [(c, s) for c in COLORS for s in SHAPES], len(corners)
        )
        things = tuple(
            Thing(CORNERS[corner], rng.choice(list(SIZES)), *kind)
            for corner, kind in zip(sorted(corners), kinds, strict=True)
        )
        scene = Scene(rng.choice(list(BACKGROUNDS)), things)
        if scene.held_out == held_out:
            return scene


def sample_test_scenes(
    rng: random.Random, number: int, seed: int
) -> Sequence[Scene]:
    """Draw distinct held-out scenes.

    They are of one part of the held-out scenes, so the test scenes of four
    successive seeds have none in common. There are few scenes of one shape,
    70 held out, so most scenes have two or three.

    Args:
        rng: Source of randomness.
        number: Number of scenes, at most ``MAX_TEST_SCENES``.
        seed: Seed of the data set; ``seed % TEST_PARTS`` is the part.

    Raises:
        ValueError: More scenes than ``MAX_TEST_SCENES``.
    """
    if number > MAX_TEST_SCENES:
        raise ValueError(
            f'{number:,} test scenes are requested, but at most '
            f'{MAX_TEST_SCENES:,} distinct ones can be drawn.'
        )
    scenes: dict[Scene, None] = {}
    while len(scenes) < number:
        scene = sample_scene(rng, held_out=True)
        if scene.test_part == seed % TEST_PARTS:
            scenes[scene] = None
    return list(scenes)


def render(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene as a 64 x 64 RGB image.

    Positions, radii and colours are jittered by ``rng``. It is drawn at twice
    the size and reduced, so that edges are smooth.
    """
    side = 2 * IMAGE_SIZE
    image = Image.new('RGB', (side, side), BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(image)
    half = side / 2
    for thing in scene.things:
        column, row = (
            CORNERS.index(thing.corner) % 2,
            CORNERS.index(thing.corner) // 2,
        )
        x = (column + 0.5) * half + rng.uniform(-4, 4)
        y = (row + 0.5) * half + rng.uniform(-4, 4)
        radius = half * 0.425 * SIZES[thing.size] * rng.uniform(0.92, 1)
        color = tuple(
            max(0, min(255, round(channel + rng.uniform(-15, 15))))
            for channel in COLORS[thing.color]
        )
        _draw_shape(draw, thing.shape, x, y, radius, color)
    return image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    radius: float,
    color: tuple,
) -> None:
    def box(width: float, height: float) -> list[float]:
        return [x - width, y - height, x + width, y + height]

    if shape == 'circle':
        draw.ellipse(box(radius, radius), fill=color)
    elif shape == 'square':
        draw.rectangle(box(0.85 * radius, 0.85 * radius), fill=color)
    elif shape == 'triangle':
        draw.polygon(
            [
                (x, y - radius),
                (x + radius, y + 0.8 * radius),
                (x - radius, y + 0.8 * radius),
            ],
            fill=color,
        )
    elif shape == 'cross':
        draw.rectangle(box(radius, 0.3 * radius), fill=color)
        draw.rectangle(box(0.3 * radius, radius), fill=color)
    else:  # a star of five points
        points = []
        for i in range(10):
            reach = radius if i % 2 == 0 else 0.4 * radius
            angle = i * math.pi / 5
            points.append(
                (x + reach * math.sin(angle), y - reach * math.cos(angle))
            )
        draw.polygon(points, fill=color)
