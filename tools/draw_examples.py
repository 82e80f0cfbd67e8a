# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Draw the example images of the web page.

    python tools/draw_examples.py [FOLDER]

One function draws one image, on a canvas of 320 x 320 units. Three more
images are held-out scenes of the nano world, which the nano model knows.
"""

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from minigpt4.nano import world

SIDE = 320  # pixels of an image
SCALE = 3  # drawn larger by this factor and reduced, for smooth edges
COLORS = 96  # of the palette, for files of about 10 kB
FOLDER = Path(__file__).parents[1] / 'projects/minigpt4/serving/web/examples'

Points = list[tuple[float, float]]


class Canvas:
    """An image and its drawing operations, in units of the final image."""

    def __init__(self, background: str) -> None:
        side = SIDE * SCALE
        self.image = Image.new('RGB', (side, side), background)
        self.draw = ImageDraw.Draw(self.image)

    def shade(self, y0: float, y1: float, top: str, bottom: str) -> None:
        """Fill the rows ``y0`` to ``y1`` with a vertical colour gradient."""
        first, last = round(y0 * SCALE), round(y1 * SCALE)
        mask = Image.linear_gradient('L').resize(
            (self.image.width, last - first)
        )
        band = Image.new('RGB', mask.size, top)
        band.paste(Image.new('RGB', mask.size, bottom), mask=mask)
        self.image.paste(band, (0, first))

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: str
    ) -> None:
        """Draw an ellipse around a centre."""
        box = [x - rx, y - ry, x + rx, y + ry]
        self.draw.ellipse([v * SCALE for v in box], fill)

    def box(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        fill: str,
        radius: float = 0,
    ) -> None:
        """Draw a rectangle with rounded corners."""
        self.draw.rounded_rectangle(
            [v * SCALE for v in (x0, y0, x1, y1)], radius * SCALE, fill
        )

    def polygon(self, points: Points, fill: str) -> None:
        """Draw a polygon."""
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill)

    def line(self, points: Points, fill: str, width: float = 2) -> None:
        """Draw a line through points."""
        self.draw.line(
            [(x * SCALE, y * SCALE) for x, y in points],
            fill,
            round(width * SCALE),
            'curve',
        )

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        end: float,
        fill: str,
        width: float = 2,
    ) -> None:
        """Draw an elliptic arc; degrees count clockwise from the right."""
        box = [x - rx, y - ry, x + rx, y + ry]
        self.draw.arc(
            [v * SCALE for v in box], start, end, fill, round(width * SCALE)
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        fill: str,
        outline: str | None = None,
    ) -> None:
        """Draw a line of text around a centre."""
        self.draw.text(
            (x * SCALE, y * SCALE),
            words,
            fill,
            ImageFont.load_default(size * SCALE),
            'mm',
            stroke_width=round(size * SCALE * (0.09 if outline else 0)),
            stroke_fill=outline,
        )

    def leaf(
        self,
        x: float,
        y: float,
        length: float,
        width: float,
        angle: float,
        fill: str,
        vein: str | None = None,
    ) -> None:
        """Draw a leaf that starts at a point; the angle is in degrees."""
        a = math.radians(angle)
        along, across = (math.cos(a), math.sin(a)), (-math.sin(a), math.cos(a))

        def at(t: float, side: float) -> tuple[float, float]:
            bulge = side * width / 2 * math.sin(math.pi * t**0.8)
            return (
                x + along[0] * length * t + across[0] * bulge,
                y + along[1] * length * t + across[1] * bulge,
            )

        steps = [i / 16 for i in range(17)]
        self.polygon(
            [at(t, 1) for t in steps] + [at(t, -1) for t in steps[::-1]], fill
        )
        if vein:
            self.line([(x, y), at(0.9, 0)], vein, 1.2)


def lake(rng: random.Random) -> Canvas:
    """Describe: a sailing boat on a mountain lake."""
    c = Canvas('#bfe3f5')
    c.shade(0, 190, '#8cc9ee', '#fdf1d8')
    c.oval(245, 62, 26, 26, '#ffd95a')
    for x, y in ((70, 50), (150, 80)):
        for dx, r in ((-18, 12), (0, 17), (19, 12)):
            c.oval(x + dx, y, r * 1.3, r * 0.8, '#ffffff')
    for x, top, width, color in (
        (60, 95, 110, '#7d8fb3'),
        (255, 105, 110, '#8b9bbd'),
        (155, 70, 125, '#65789f'),
    ):
        c.polygon([(x - width, 192), (x, top), (x + width, 192)], color)
        k = 34 / (192 - top)
        c.polygon(
            [
                (x - width * k, top + 34),
                (x, top),
                (x + width * k, top + 34),
                (x + 9, top + 24),
                (x - 2, top + 36),
                (x - 11, top + 25),
            ],
            '#f7faff',
        )
    c.shade(190, 320, '#5aa7cf', '#2b6a9b')
    for _ in range(26):
        x, y = rng.uniform(0, 310), rng.uniform(200, 300)
        c.line([(x, y), (x + rng.uniform(10, 30), y)], '#8fcbe6', 1.2)
    for x in range(-4, 330, 17):
        h = rng.uniform(20, 36)
        c.polygon([(x - 9, 194), (x, 194 - h), (x + 9, 194)], '#2f6b4a')
    c.box(174, 160, 177, 236, '#6b4a2f')
    c.polygon([(180, 164), (180, 226), (222, 226)], '#ffffff')
    c.polygon([(171, 172), (171, 226), (138, 226)], '#e4573d')
    c.polygon([(128, 234), (232, 234), (212, 256), (146, 256)], '#8a3b22')
    return c


def cat(rng: random.Random) -> Canvas:
    """Meme: a cat that is wide awake."""
    c = Canvas('#26284a')
    c.box(212, 60, 300, 150, '#3b3f73', 4)
    c.box(218, 66, 294, 144, '#11132b')
    c.oval(262, 98, 17, 17, '#f5efc6')
    c.oval(254, 93, 15, 15, '#11132b')
    for x, y in ((230, 78), (240, 130), (284, 128), (226, 108)):
        c.oval(x, y, 1.6, 1.6, '#ffffff')
    c.box(0, 250, 320, 320, '#5b4636')
    fur, dark = '#e79a4b', '#c9772c'
    c.oval(135, 232, 78, 70, fur)
    for tip in (80, 190):
        root = 108 if tip < 135 else 162
        c.polygon([(tip, 62), (root - 30, 140), (root + 30, 128)], fur)
        c.polygon(
            [(tip, 76), ((root + tip) / 2 - 12, 122), (root + 12, 120)],
            '#f3b9a0',
        )
    c.oval(135, 150, 72, 58, fur)
    for dx in (-14, 0, 14):
        c.line([(135 + dx, 94), (135 + dx, 116)], dark, 5)
    for x in (106, 164):
        c.oval(x, 146, 23, 23, '#f6f4dc')
        c.oval(x, 147, 17, 18, '#20202a')
        c.oval(x + 6, 140, 5, 5, '#ffffff')
        for side in (-1, 0, 1):
            out = -1 if x < 135 else 1
            c.line(
                [(135 + out * 24, 178), (135 + out * 82, 176 + side * 11)],
                '#fff3e0',
                1.6,
            )
    c.polygon([(128, 168), (142, 168), (135, 177)], '#8a3f3f')
    c.arc(127, 177, 8, 7, 0, 180, '#5d2f20')
    c.arc(143, 177, 8, 7, 0, 180, '#5d2f20')
    c.polygon([(92, 214), (222, 214), (242, 268), (72, 268)], '#9aa3b8')
    c.polygon([(97, 219), (217, 219), (233, 262), (81, 262)], '#b9c2d6')
    c.oval(157, 240, 9, 9, '#e8edf7')
    c.text(160, 30, 'I WILL SLEEP EARLY', 27, '#ffffff', '#000000')
    c.text(160, 294, 'ALSO ME AT 3 AM', 30, '#ffffff', '#000000')
    return c


def sketch(rng: random.Random) -> Canvas:
    """Website: a page drawn by hand on squared paper."""
    c = Canvas('#fbf8ee')
    for v in range(16, 320, 16):
        c.line([(v, 0), (v, 320)], '#e3e9ef', 0.7)
        c.line([(0, v), (320, v)], '#e3e9ef', 0.7)
    ink = '#2b3a67'

    def stroke(x0: float, y0: float, x1: float, y1: float) -> None:
        n = max(3, round(math.dist((x0, y0), (x1, y1)) / 14))
        c.line(
            [
                (
                    x0 + (x1 - x0) * i / n + rng.uniform(-1, 1),
                    y0 + (y1 - y0) * i / n + rng.uniform(-1, 1),
                )
                for i in range(n + 1)
            ],
            ink,
            2.2,
        )

    def frame(x0: float, y0: float, x1: float, y1: float) -> None:
        stroke(x0 - 2, y0, x1 + 2, y0 + 1)
        stroke(x1, y0 - 2, x1 - 1, y1 + 2)
        stroke(x1 + 2, y1, x0 - 2, y1 - 1)
        stroke(x0, y1 + 2, x0 + 1, y0 - 2)

    def write(x: float, y: float, words: str, size: float) -> None:
        for letter in words:
            c.text(x, y + rng.uniform(-1.2, 1.2), letter, size, ink)
            x += size * (0.34 if letter in 'il, ' else 0.58)

    frame(24, 22, 296, 300)
    write(84, 50, 'My Picnic Page', 22)
    stroke(36, 72, 284, 72)
    frame(42, 92, 136, 176)
    stroke(42, 176, 80, 128)
    stroke(80, 128, 104, 158)
    stroke(104, 158, 116, 144)
    stroke(116, 144, 136, 170)
    c.arc(112, 110, 8, 8, 0, 360, ink, 2.2)
    write(154, 104, 'What to bring:', 14)
    for y, words in ((128, 'bread'), (148, 'apples'), (168, 'a good joke')):
        c.oval(158, y + 1, 2.6, 2.6, ink)
        write(170, y, words, 14)
    write(46, 204, 'Why did the picnic', 15)
    write(46, 224, 'blanket laugh?', 15)
    frame(84, 248, 236, 280)
    write(98, 264, 'show the answer', 15)
    return c


def pizza(rng: random.Random) -> Canvas:
    """Recipe: a pizza on a plate."""
    c = Canvas('#e9d8bf')
    for x in range(0, 320, 40):
        c.line([(x, 0), (x, 320)], '#dcc6a5', 1.5)
    c.oval(164, 168, 144, 144, '#cdb893')
    c.oval(160, 160, 144, 144, '#ffffff')
    c.oval(160, 160, 128, 128, '#eef1f4')
    c.oval(160, 160, 116, 116, '#d9a05b')
    c.oval(160, 160, 103, 103, '#c8402a')
    c.oval(160, 160, 98, 98, '#f5d27a')
    for _ in range(70):
        a, r = rng.uniform(0, 2 * math.pi), 94 * math.sqrt(rng.random())
        c.oval(
            160 + r * math.cos(a),
            160 + r * math.sin(a),
            rng.uniform(4, 10),
            rng.uniform(4, 8),
            rng.choice(['#f9e2a0', '#efbf5e', '#e58a4c']),
        )
    for i in range(7):
        a, r = i * 2 * math.pi / 6, 62 if i < 6 else 0
        x, y = 160 + r * math.cos(a), 160 + r * math.sin(a)
        c.oval(x, y, 21, 21, '#b92f20')
        c.oval(x, y, 18, 18, '#dd4b35')
        for j in range(6):
            b = j * math.pi / 3 + i
            c.oval(x + 10 * math.cos(b), y + 10 * math.sin(b), 4, 4, '#f3a68f')
    for i in range(6):
        a = (i + 0.5) * math.pi / 3
        x, y = 160 + 42 * math.cos(a), 160 + 42 * math.sin(a)
        c.leaf(x, y, 36, 17, i * 67, '#2f8a3c', '#8fcf8a')
    return c


def mug(rng: random.Random) -> Canvas:
    """Advertisement: a mug with a fox-red star."""
    c = Canvas('#fde8d7')
    c.shade(0, 230, '#ffe9c9', '#ffc9a3')
    c.shade(230, 320, '#a9673f', '#8a5030')
    for x in (110, 145, 180):
        c.line(
            [(x + 9 * math.sin(y / 13 + x), y) for y in range(34, 88, 3)],
            '#fffaf2',
            6,
        )
    c.oval(150, 268, 98, 15, '#6b3c22')
    c.arc(222, 176, 40, 42, -100, 110, '#2f7f93', 17)
    c.box(76, 104, 220, 264, '#3aa0b5', 24)
    c.box(76, 104, 100, 264, '#57b7ca', 12)
    c.oval(148, 106, 72, 16, '#8fd3df')
    c.oval(148, 107, 63, 12, '#4a2a18')
    star = []
    for i in range(10):
        reach = 40 if i % 2 == 0 else 17
        a = i * math.pi / 5
        star.append((152 + reach * math.sin(a), 188 - reach * math.cos(a)))
    c.polygon(star, '#ffcf4d')
    return c


def lighthouse(rng: random.Random) -> Canvas:
    """Poem: a lighthouse at night."""
    c = Canvas('#101a3f')
    c.shade(0, 220, '#0c1234', '#3b4a8c')
    for _ in range(60):
        r = rng.uniform(0.6, 1.7)
        c.oval(rng.uniform(0, 320), rng.uniform(0, 190), r, r, '#fdf6d8')
    c.oval(70, 66, 30, 30, '#f6ecc0')
    for x, y, r in ((60, 58, 6), (80, 76, 8), (76, 52, 4)):
        c.oval(x, y, r, r, '#e2d49c')
    c.polygon([(232, 92), (0, 96), (0, 168), (232, 102)], '#6f78a8')
    c.shade(218, 320, '#26386f', '#0b1331')
    for i in range(13):
        half = rng.uniform(4, 24)
        y = 224 + i * 6
        c.line([(70 - half, y), (70 + half, y)], '#c9c39e', 1.8)
    c.polygon(
        [(168, 320), (186, 262), (214, 242), (270, 244), (320, 272),
         (320, 320)],
        '#20222f',
    )  # fmt: skip
    c.polygon([(222, 116), (256, 116), (268, 250), (210, 250)], '#f4f1ea')
    for k in range(3):
        y, h = 136 + k * 42, 20
        w0 = 17 + (y - 116) * 12 / 134
        w1 = 17 + (y + h - 116) * 12 / 134
        c.polygon(
            [(239 - w0, y), (239 + w0, y), (239 + w1, y + h),
             (239 - w1, y + h)],
            '#cf3c35',
        )  # fmt: skip
    c.box(216, 108, 262, 117, '#2b2d3c')
    c.box(226, 84, 252, 109, '#ffe58a')
    c.polygon([(220, 86), (239, 64), (258, 86)], '#cf3c35')
    return c


def fox(rng: random.Random) -> Canvas:
    """Story: a fox with a lantern in a winter wood."""
    c = Canvas('#23375c')
    c.shade(0, 230, '#182644', '#4c6a99')
    for x, w, color in (
        (18, 16, '#16213a'), (62, 11, '#22304f'), (112, 9, '#2c3d62'),
        (258, 12, '#22304f'), (298, 18, '#16213a'), (214, 8, '#2c3d62'),
    ):  # fmt: skip
        c.box(x - w / 2, -10, x + w / 2, 244, color)
        for side, y in ((-1, 60), (1, 96), (-1, 130)):
            c.line([(x, y), (x + side * w * 2, y - 22)], color, w / 3)
    c.shade(226, 320, '#dfe9f7', '#b8cbe6')
    c.oval(80, 232, 130, 18, '#dfe9f7')
    c.oval(206, 218, 56, 56, '#7c7a6c')
    c.oval(206, 218, 38, 38, '#c9a955')
    red, white = '#d9662b', '#fdf3e6'
    c.leaf(112, 262, 90, 50, 205, red)
    c.leaf(52, 232, 32, 24, 205, white)
    c.oval(134, 232, 34, 44, red)
    c.oval(145, 240, 18, 32, white)
    for x in (118, 152):
        c.box(x - 7, 250, x + 7, 284, '#5a2c1b', 6)
    c.polygon([(112, 168), (108, 122), (138, 150)], red)
    c.polygon([(162, 168), (170, 122), (140, 150)], red)
    c.polygon([(116, 158), (112, 134), (130, 150)], '#5a2c1b')
    c.polygon([(158, 158), (166, 134), (148, 150)], '#5a2c1b')
    c.polygon([(100, 172), (140, 142), (180, 172), (140, 214)], red)
    c.polygon([(104, 176), (134, 182), (140, 214)], white)
    c.polygon([(176, 176), (146, 182), (140, 214)], white)
    c.oval(140, 208, 6, 5, '#20202a')
    for x in (124, 156):
        c.oval(x, 174, 5, 6, '#20202a')
        c.oval(x + 1.5, 172, 1.6, 1.6, '#ffffff')
    c.line([(150, 236), (204, 190)], red, 13)
    c.arc(206, 196, 10, 10, 180, 360, '#3a2a1a', 2.5)
    c.box(192, 196, 220, 202, '#3a2a1a', 2)
    c.box(195, 202, 217, 234, '#ffe27a', 3)
    c.oval(206, 222, 4, 8, '#ff9a3c')
    c.box(192, 234, 220, 240, '#3a2a1a', 2)
    for _ in range(70):
        r = rng.uniform(1, 2.4)
        c.oval(rng.uniform(0, 320), rng.uniform(0, 310), r, r, '#ffffff')
    return c


def pyramids(rng: random.Random) -> Canvas:
    """Facts: the pyramids of Giza."""
    c = Canvas('#bfe0f2')
    c.shade(0, 220, '#7fbfe8', '#fbe9c6')
    c.oval(58, 58, 24, 24, '#ffe07a')
    for x, top, w in ((262, 132, 82), (60, 146, 70), (160, 74, 128)):
        c.polygon([(x - w, 222), (x, top), (x + w, 222)], '#e2bd77')
        c.polygon([(x + w * 0.28, 222), (x, top), (x + w, 222)], '#b98d4c')
        for k in range(1, 9):
            t = k / 9
            y = top + (222 - top) * t
            c.line([(x - w * t, y), (x + w * 0.28 * t, y)], '#cda660', 0.9)
    c.shade(220, 320, '#ecc987', '#d3a65c')
    for _ in range(12):
        x, y = rng.uniform(0, 290), rng.uniform(236, 310)
        c.line([(x, y), (x + 15, y - 3), (x + 32, y)], '#c99a50', 1.4)
    brown = '#7a4d28'
    for x in (74, 84, 112, 120):
        c.line([(x, 262), (x - 1, 298)], brown, 5)
    c.oval(96, 258, 32, 13, brown)
    c.oval(96, 246, 13, 13, brown)
    c.line([(122, 258), (142, 250), (146, 226)], brown, 8)
    c.oval(152, 224, 12, 6, brown)
    c.line([(66, 258), (60, 278)], brown, 2.5)
    c.box(84, 242, 108, 258, '#b7332e', 4)
    return c


def washer(rng: random.Random) -> Canvas:
    """Problem and fix: a washing machine that foams over."""
    c = Canvas('#d8e6ea')
    for x in range(0, 330, 40):
        for y in range(0, 240, 40):
            c.box(x + 1, y + 1, x + 39, y + 39, '#e6f0f2', 2)
    c.shade(238, 320, '#b59a7d', '#9a8064')
    c.box(72, 42, 250, 272, '#b9c0c7', 12)
    c.box(76, 44, 246, 268, '#fbfcfd', 10)
    c.box(76, 44, 246, 88, '#e4e9ee', 10)
    c.box(88, 54, 140, 78, '#cfd7df', 4)
    c.oval(172, 66, 12, 12, '#8e99a5')
    c.line([(172, 66), (178, 58)], '#ffffff', 2.5)
    c.box(196, 56, 236, 76, '#27323d', 3)
    c.text(216, 66, 'E18', 14, '#ff5340')
    c.oval(161, 168, 68, 68, '#9aa5b0')
    c.oval(161, 168, 56, 56, '#31414f')
    c.oval(161, 172, 50, 48, '#6da7c6')
    c.oval(146, 184, 24, 15, '#c95a5a')
    c.oval(180, 180, 20, 16, '#e5c25a')

    def foam(x: float, y: float, r: float) -> None:
        c.oval(x, y, r, r, '#c4dbe6')
        c.oval(x - r * 0.08, y - r * 0.08, r * 0.88, r * 0.88, '#f8fdff')
        c.oval(x - r * 0.3, y - r * 0.35, r * 0.2, r * 0.2, '#ffffff')

    c.oval(160, 292, 146, 24, '#8cc3dd')
    for _ in range(26):
        foam(rng.gauss(161, 26), rng.uniform(214, 252), rng.uniform(8, 16))
    for _ in range(60):
        foam(rng.gauss(160, 58), rng.uniform(256, 300), rng.uniform(7, 17))
    for _ in range(8):
        foam(rng.uniform(20, 300), rng.uniform(150, 230), rng.uniform(3, 6))
    return c


def plant(rng: random.Random) -> Canvas:
    """Plant: leaves with brown spots and yellow edges."""
    c = Canvas('#eef3e8')
    c.shade(0, 262, '#f4f8ee', '#dfead6')
    c.shade(262, 320, '#c8a781', '#b08e68')
    c.box(84, 28, 238, 176, '#ffffff', 4)
    c.box(90, 34, 158, 170, '#cfe8f5')
    c.box(164, 34, 232, 170, '#cfe8f5')
    leaves = (
        (160, 206, 120, 50, -90), (158, 210, 112, 48, -128),
        (162, 210, 114, 48, -54), (156, 214, 104, 44, -160),
        (164, 214, 104, 44, -22),
    )  # fmt: skip
    for x, y, length, width, angle in leaves:
        c.leaf(x, y, length, width, angle, '#d9c94f')
        c.leaf(x, y, length * 0.93, width * 0.8, angle, '#5f9e46', '#a9cf86')
        a = math.radians(angle)
        for _ in range(7):
            t, s = rng.uniform(0.3, 0.85), rng.uniform(-0.24, 0.24)
            px = x + math.cos(a) * length * t - math.sin(a) * width * s
            py = y + math.sin(a) * length * t + math.cos(a) * width * s
            r = rng.uniform(2.4, 5.5)
            c.oval(px, py, r * 1.35, r * 1.35, '#c9b34a')
            c.oval(px, py, r, r, '#6d4423')
    c.polygon([(108, 214), (212, 214), (198, 294), (122, 294)], '#c2643c')
    c.box(102, 204, 218, 222, '#d37a50', 4)
    c.leaf(232, 292, 52, 20, 8, '#b98f3f', '#8a6526')
    return c


IMAGES: tuple[Callable[[random.Random], Canvas], ...] = (
    lake, cat, sketch, pizza, mug, lighthouse, fox, pyramids, washer, plant,
)  # fmt: skip


def scene(number: int) -> Image.Image:
    """Render a held-out scene of the nano world with a number of shapes."""
    rng = random.Random(number)
    while True:
        candidate = world.sample_scene(rng, held_out=True)
        if len(candidate.things) == number:
            return world.render(candidate, rng).resize(
                (256, 256), Image.Resampling.BICUBIC
            )


def main(folder: Path) -> None:
    """Draw all images into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        scene(number).save(folder / f'nano{number}.png', optimize=True)
    for draw in IMAGES:
        image = draw(random.Random(draw.__name__)).image.resize(
            (SIDE, SIDE), Image.Resampling.LANCZOS
        )
        palette = image.quantize(COLORS, dither=Image.Dither.NONE)
        file = folder / f'{draw.__name__}.png'
        palette.save(file, optimize=True)
        print(f'{file}: {file.stat().st_size:,} bytes')


if __name__ == '__main__':
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
