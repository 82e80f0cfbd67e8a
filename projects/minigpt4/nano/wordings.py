# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Other wordings of the questions, which the nano LLM is pretrained on.

The data set asks each question in a few wordings only (:mod:`.grammar`).
Users word and type their questions in other ways.
"""

import random

from . import grammar

WORDINGS = {
    'describe': (
        'Describe this image in detail. Give as many details as possible. '
        'Say everything you see.',  # of the paper's curation, section 3.2
        'Describe the image.',
        'Describe this picture in detail.',
        'Describe the picture, please.',
        'Please describe this image.',
        'Describe what you see.',
        'Describe it.',
        'Can you describe this photo?',
        'Give a detailed description of the image.',
        'What is in this image?',
        'What is in the picture?',
        'What do you see?',
        'What can you see in this image?',
        'What is this?',
        'What does the image show?',
        'What is shown here?',
        'Tell me about this image.',
        'Show me the details of this photo.',
    ),
    'poem': (
        'Write a poem about this image.',
        'Write a poem about it.',
        'Write a beautiful poem about the picture.',
        'Please write a poem.',
        'Can you write a poem about what you see?',
        'Craft a poem for this image.',
        'Make a poem.',
        'A poem, please.',
    ),
    'count': (
        'How many shapes are in this image?',
        'How many shapes do you see?',
        'How many shapes can you count?',
        'How many shapes does the picture show?',
        'How many are there?',
        'How many things are there?',
        'Count the shapes in the image.',
        'Please count the shapes.',
        'What is the number of shapes?',
    ),
    'advertise': (
        'Write an advertisement for this.',
        'Write an advertisement for the image.',
        'Please write a professional advertisement.',
        'Can you draft an advertisement for it?',
        'Make an advertisement.',
    ),
    'color': (
        'What is the color of the {}?',
        'What colour is the {}?',
        'Which color has the {}?',
        'What color does the {} have?',
        'Tell me the color of the {}.',
        'The {} is of what color?',
    ),
    'place': (
        'Where is the {} {} in this image?',
        'Where do you see the {} {}?',
        'Where can I find the {} {}?',
        'In which corner is the {} {}?',
        'Which corner is the {} {} in?',
        'What is the place of the {} {}?',
        'Tell me where the {} {} is.',
    ),
}
SMALL_TALK = {
    'I am a nano model. I look at shapes.': (
        'Who are you?',
        'What are you?',
        'What is your name?',
        'What can you do?',
        'What do you do?',
        'Tell me about you.',
    ),
    'Hello! Show me an image.': (
        'Hello!',
        'Hi!',
        'Hey!',
        'Hello there!',
        'Good day!',
        'How are you?',
    ),
    'You are welcome.': (
        'Thank you.',
        'Thanks!',
        'Thank you very much.',
        'Thanks for your help.',
        'That is right, thank you.',
    ),
}


def reword(task: str, asked: str, rng: random.Random) -> str:
    """Ask a question of :func:`.grammar.question` in another wording.

    Args:
        task: The task of the question, a key of ``WORDINGS``.
        asked: The question. Its colour and shape are kept.
        rng: Draws the wording.
    """
    words = grammar.words_of_shapes(asked)
    return rng.choice(WORDINGS[task]).format(*words)


def retype(asked: str, rng: random.Random) -> str:
    """Type a question as users may.

    The mark at its end is omitted or another one, its letters are small, or
    a space is a line break or two spaces; often it stays as it is.

    Args:
        asked: The question; it ends with a mark.
        rng: Draws the changes.
    """
    if rng.random() < 0.25:
        asked = asked[:-1] + rng.choice(('', '', '.', '!', '?', ' ?'))
    kind = rng.random()
    if kind < 0.1:
        asked = asked.lower()
    elif kind < 0.2:
        asked = asked[0].lower() + asked[1:]
    spaces = [i for i, letter in enumerate(asked) if letter == ' ']
    if spaces and rng.random() < 0.2:
        space = rng.choice(spaces)
        other = rng.choice(('\n', '\n\n', '  '))
        asked = asked[:space] + other + asked[space + 1 :]
    return asked


def small_talk(rng: random.Random) -> tuple[str, str]:
    """Draw a remark that is about no image, and its answer."""
    answer = rng.choice(list(SMALL_TALK))
    return rng.choice(SMALL_TALK[answer]), answer
