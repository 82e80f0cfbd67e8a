# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Every text about a scene of the nano world, and checks of answers.

Stage 1 trains on :func:`caption`, stage 2 on :func:`description` only. The
language model learns the other answers (:func:`poem`, :func:`count`,
:func:`color`, :func:`place`, :func:`advertisement`) from text only; they are
never paired with an image.
"""

import random
import re

from .world import COLORS, CORNERS, SHAPES, SIZES, Scene, Thing

NUMBERS = ('zero', 'one', 'two', 'three')
DESCRIBE = (
    # the four prompts of MiniGPT-4's prompts/alignment.txt @ d94738a
    'Describe this image in detail.',
    'Take a look at this image and describe what you notice.',
    'Please provide a detailed description of the picture.',
    'Could you describe the contents of this image for me?',
)
POEM = (
    'Can you craft a beautiful poem about this image?',
    'Can you write a beautiful poem about this image?',
    'Write a poem.',
)
COUNT = ('How many shapes are there?', 'Count the shapes.')
ADVERTISE = (
    'Help me draft a professional advertisement for this.',
    'Write an advertisement.',
)
FILLERS = ('.', ',', '-')
# of web captions: words without content, and captions of nothing else
TAGS = (
    'stock photo',
    'free download',
    'clip art',
    'vector icon',
    'for sale',
    'my photo',
    'wallpaper',
)
UNRELATED = (
    'click here for more',
    'image not found',
    'free shipping',
    'untitled photo',
    'more photos of the day',
)


def name(thing: Thing, size: bool = True) -> str:
    """``'small red circle'``, or ``'red circle'`` without the size."""
    words = [thing.size] if size else []
    return ' '.join([*words, thing.color, thing.shape])


def _article(word: str) -> str:
    return 'an' if word[0] in 'aeiou' else 'a'


def scene_text(scene: Scene, rng: random.Random) -> str:
    """Render a scene as words in raster order, in place of an image.

    The language model is pretrained on it. An empty corner is omitted or
    filled with a few marks, so that the model learns to ignore words without
    meaning.
    """
    things = {thing.corner: thing for thing in scene.things}
    marks = rng.choice(FILLERS)
    words: list[str] = []
    for corner in CORNERS:
        if corner in things:
            words += f'{name(things[corner])} {corner}'.split()
        else:
            words += [marks] * rng.choice((0, 0, 1, 3, 5))
    return ' '.join([*words, scene.background, 'background'])


def query_words(scene: Scene) -> list[str]:
    """List the 22 words that the Q-Former's queries are pretrained on.

    Five for each corner (``''`` where it is empty) and two for the
    background.
    """
    things = {thing.corner: thing for thing in scene.things}
    words: list[str] = []
    for corner in CORNERS:
        if corner in things:
            words += f'{name(things[corner])} {corner}'.split()
        else:
            words += [''] * 5
    return [*words, scene.background, 'background']


def caption(scene: Scene, rng: random.Random) -> str:
    """Write a web caption (stage 1): short, noisy, often a fragment.

    It names some shapes with some of their properties in any order, next to
    words that have nothing to do with the image; a few captions are nothing
    else. It is unlike the sentences that the language model answers with.
    """
    if rng.random() < 0.08:
        return rng.choice(UNRELATED)
    things = list(scene.things)
    rng.shuffle(things)
    if rng.random() < 0.3:
        things = things[:1]
    parts = [' '.join(_fragment(thing, rng)) for thing in things]
    parts = [part for part in parts if part] or [things[0].shape]
    text = rng.choice((', ', ' ', ' - ', ' and ')).join(parts)
    if rng.random() < 0.4:
        text += rng.choice((' on ', ', ')) + scene.background
    kind = rng.random()
    if kind < 0.3:
        return text + rng.choice((' - ', ' , ', ' ')) + rng.choice(TAGS)
    if kind < 0.4:
        return f'{rng.choice(TAGS)} {text}'
    if kind < 0.5:
        return f'{text} {text}'
    if kind < 0.6:
        words = text.split()
        return ' '.join(words[: max(2, 2 * len(words) // 3)]) + ' ...'
    return text


def _fragment(thing: Thing, rng: random.Random) -> list[str]:
    """Some words of a shape for a caption; they may be none."""
    words = [thing.color, thing.shape]
    if rng.random() < 0.7:
        words.insert(0, thing.size)
    if rng.random() < 0.4:
        words.append(thing.corner)
    elif rng.random() < 0.2:
        words.insert(0, thing.corner)
    return [word for word in words if rng.random() > 0.15]


def description(scene: Scene) -> str:
    """Write the detailed description (stage 2)."""
    things = scene.things
    verb = 'shape' if len(things) == 1 else 'shapes'
    head = (
        f'The image shows {NUMBERS[len(things)]} {verb} on a '
        f'{scene.background} background.'
    )
    return ' '.join(
        [head] + [f'In the {t.corner} there is a {name(t)}.' for t in things]
    )


def poem(scene: Scene) -> str:
    """Write a poem: one line for each shape and a closing line."""
    lines = [
        f'O {t.color} {t.shape}, so {t.size} and bright,' for t in scene.things
    ]
    return '\n'.join([*lines, f'upon a field of {scene.background} light.'])


def count(scene: Scene) -> str:
    """State how many shapes there are."""
    number = len(scene.things)
    if number == 1:
        return 'There is one shape.'
    return f'There are {NUMBERS[number]} shapes.'


def color(thing: Thing) -> str:
    """State the colour of a shape."""
    return f'The {thing.shape} is {thing.color}.'


def place(thing: Thing) -> str:
    """State the corner of a shape."""
    return f'The {thing.color} {thing.shape} is in the {thing.corner}.'


def advertisement(scene: Scene) -> str:
    """Write an advertisement for the first shape."""
    thing = scene.things[0]
    return (
        f'Buy our {name(thing)} today! Nothing is as {thing.color} as '
        f'this {thing.shape}.'
    )


TASKS = ('describe', 'poem', 'count', 'color', 'place', 'advertise')


def question(
    task: str, scene: Scene, rng: random.Random
) -> tuple[str, str] | None:
    """A question of one task about a scene, and its answer.

    Returns:
        The pair, or None if the scene allows no such question (the colour of
        a shape is asked only if the scene has one shape of that kind).
    """
    if task == 'describe':
        return rng.choice(DESCRIBE), description(scene)
    if task == 'poem':
        return rng.choice(POEM), poem(scene)
    if task == 'count':
        return rng.choice(COUNT), count(scene)
    if task == 'advertise':
        return rng.choice(ADVERTISE), advertisement(scene)
    if task == 'color':
        shapes = [t.shape for t in scene.things]
        single = [t for t in scene.things if shapes.count(t.shape) == 1]
        if not single:
            return None
        thing = rng.choice(single)
        return f'What color is the {thing.shape}?', color(thing)
    if task == 'place':
        thing = rng.choice(scene.things)
        return f'Where is the {thing.color} {thing.shape}?', place(thing)
    raise ValueError(f'unknown task {task!r}; expected one of {TASKS}')


_COLORED = re.compile(rf'({"|".join(COLORS)}) ({"|".join(SHAPES)})')
_NAME = re.compile(rf'\b(?:{"|".join(SIZES)}) {_COLORED.pattern}\b')
_COLOR_OR_SHAPE = re.compile(rf'\b(?:{"|".join((*COLORS, *SHAPES))})\b')


def mentioned(text: str) -> list[str]:
    """List the shapes that a text names, e.g. ``small red circle``.

    Other words after a size, as of a broken answer, are no shape.
    """
    return [match[0] for match in _NAME.finditer(text)]


def words_of_shapes(text: str) -> list[str]:
    """List the colours and shapes that a text names, in its order."""
    return _COLOR_OR_SHAPE.findall(text)


def failure(task: str, text: str, finished: bool) -> str | None:
    """Classify an answer to "describe" or "poem" that is not well formed.

    The rules replace the human judgement of the paper's section 4.3: its
    stage-1 model writes repetitive words, fragmented sentences or irrelevant
    content. They check the form only; :func:`is_relevant` compares the answer
    with the scene.

    Args:
        task: ``describe`` or ``poem``.
        text: The answer.
        finished: Whether the model ended the answer itself.

    Returns:
        ``'unfinished'``, ``'repeated'``, ``'fragmented'``, ``'malformed'``
        (it has not the form of the task) or None.
    """
    if not finished:
        return 'unfinished'
    split = '\n' if task == 'poem' else '. '
    clauses = [clause.strip(' .,') for clause in text.split(split)]
    if len(set(clauses)) < len(clauses):
        return 'repeated'
    if not text.endswith('.') or '' in clauses:
        return 'fragmented'
    if task == 'poem':
        line = r'O \w+ \w+, so \w+ and bright'
        last = r'upon a field of \w+ light'
    else:
        line = r'In the \w+ \w+ there is an? \w+ \w+ \w+'
        last = r'The image shows \w+ shapes? on an? \w+ background'
        clauses = clauses[1:] + clauses[:1]
    well_formed = (
        len(clauses) > 1
        and re.fullmatch(last, clauses[-1])
        and all(re.fullmatch(line, clause) for clause in clauses[:-1])
    )
    return None if well_formed else 'malformed'


def is_relevant(text: str, scene: Scene) -> bool:
    """Whether an answer names a shape of the scene with its colour."""
    shown = {(thing.color, thing.shape) for thing in scene.things}
    return not shown.isdisjoint(_COLORED.findall(text))
