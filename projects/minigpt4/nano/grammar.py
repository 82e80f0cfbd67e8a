# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Every text about a scene of the nano world, and checks of answers.

Stage 1 trains on :func:`caption`, stage 2 on :func:`description` only. The
language model learns the other answers (:func:`poem`, :func:`count`,
:func:`color`, :func:`place`, :func:`advertisement`) from text only; they are
never paired with an image.
"""

import random
import re

from .world import CORNERS, Scene, Thing

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
SMALL_TALK = (
    ('Who are you?', 'I am a nano model. I look at shapes.'),
    ('Hello!', 'Hello! Show me an image.'),
    ('Thank you.', 'You are welcome.'),
)
FILLERS = ('.', ',', '-')


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
    """Write a short, noisy web caption (stage 1): some facts in any order."""
    things = list(scene.things)
    kind = rng.randrange(6)
    if kind == 0:
        return ' and '.join(
            f'{_article(t.color)} {name(t, False)}' for t in things
        )
    if kind == 1:
        names = ' with '.join(name(t) for t in things)
        return f'photo of {names} on {scene.background}'
    if kind == 2:
        return ', '.join(f'{name(t)} {t.corner}' for t in things)
    if kind == 3:
        names = ', '.join(name(t, False) for t in things)
        plural = '' if len(things) == 1 else 's'
        return (
            f'{NUMBERS[len(things)]} shape{plural} on {scene.background} '
            f'background: {names}'
        )
    if kind == 4:
        return (
            ', '.join(
                f'{t.corner} {t.size} {t.color} {t.shape}' for t in things
            )
            + f' on {scene.background}'
        )
    # vague or incomplete, like many captions of the web
    thing = rng.choice(things)
    return rng.choice(
        (
            f'{name(thing)} stock photo',
            f'{thing.color} {thing.shape} on {scene.background}',
            f'image of {name(thing)} {thing.corner}',
        )
    )


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


_NAME = re.compile(r'(small|large) (\w+) (\w+)')


def mentioned(text: str) -> list[str]:
    """List the shapes that a text names, e.g. ``small red circle``."""
    return [' '.join(match) for match in _NAME.findall(text)]


def failure(task: str, text: str, finished: bool) -> str | None:
    """Classify an answer to "describe" or "poem" that is not well formed.

    The rules replace the human judgement of the paper's section 4.3 (its
    stage-1 model repeats itself, stops early or writes irrelevant text). They
    check the form only, not whether the description is correct.

    Args:
        task: ``describe`` or ``poem``.
        text: The answer.
        finished: Whether the model ended the answer itself.

    Returns:
        ``'unfinished'``, ``'repeated'``, ``'fragmented'``, ``'irrelevant'``
        or None for a well-formed text.
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
    return None if well_formed else 'irrelevant'
