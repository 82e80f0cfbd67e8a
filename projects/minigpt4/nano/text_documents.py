# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The texts that the nano LLM is pretrained on, as batches of tokens."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import grammar, wordings
from .world import COLORS, CORNERS, SHAPES, SIZES, Scene, sample_scene

LONG_TASKS = ('describe', 'describe', 'poem', 'poem', 'count', 'advertise')
_POOL = 1024  # documents that are sorted by length at a time
_REWORDED = 0.4  # share of the questions that are not in the data's wordings
_WITH_SMALL_TALK = 0.1  # share of the conversations about a scene


class Document(NamedTuple):
    """A text as tokens.

    Attributes:
        ids: Its token ids.
        supervised: Whether the model learns to predict a token.
        first: Position of the first word of the scene.
        last: Position after the last word of the scene.
    """

    ids: list[int]
    supervised: list[bool]
    first: int = 0
    last: int = 0


class TextDocuments:
    """Documents for the pretraining of the LLM, indefinitely.

    Args:
        tokenizer: The ``SentencePieceProcessor``.
        rng: Source of randomness.
        captions_only: Whether a scene is followed by a web caption, as in
            stage 1, and never by questions and answers. Such a model cannot
            chat, like the OPT of BLIP-2.

    Attributes:
        share_of_lists: Probability that a document is a list of words; it is
            about a scene or small talk otherwise.
    """

    def __init__(
        self, tokenizer: Any, rng: random.Random, captions_only: bool = False
    ) -> None:
        self._encode = tokenizer.encode
        self._rng = rng
        self._captions_only = captions_only
        self.share_of_lists = 0.0
        pieces = map(tokenizer.id_to_piece, range(tokenizer.get_piece_size()))
        self._words = [
            i
            for i, piece in enumerate(pieces)
            if piece.startswith('▁') and piece[1:].isalpha()
        ]
        corners = {word for corner in CORNERS for word in corner.split()}
        self._scene_words = [
            tokenizer.piece_to_id('▁' + word)
            for word in sorted({*COLORS, *SHAPES, *SIZES, *corners})
        ]

    def draw(self) -> Document:
        """Draw a document."""
        if self._rng.random() < self.share_of_lists:
            return self._word_list()
        if self._captions_only:
            return self._caption(sample_scene(self._rng))
        kind = self._rng.random()
        if kind < 0.03:
            return self._small_talk()
        scene = sample_scene(self._rng)
        if kind < 0.25:
            return self._facts(scene)
        return self._conversation(scene)

    def _word_list(self) -> Document:
        """A list of words, and questions about their order.

        The model repeats or reverses it, or names the words next to some of
        them. To find a word by its neighbour is what questions about a scene
        need too; lists ask for it in almost every token, so it is learned in
        some hundred steps instead of many thousand.
        """
        rng, encode = self._rng, self._encode
        pool = rng.choice((self._words, self._scene_words))
        words = rng.sample(pool, rng.randint(5, 12))
        kind = rng.randrange(4)
        if kind < 2:
            task = encode(('Repeat:', 'Reverse:')[kind])
            answer = words[::-1] if kind else words
            return _join(
                [
                    ([1, *task, *words, *encode(' ###Assistant:')], False),
                    ([*answer, *encode('###')], True),
                ]
            )
        segments = [([1, *words, *encode(' ###Assistant:')], False)]
        places = [(i, d) for i in range(1, len(words) - 1) for d in (-1, 1)]
        for i, step in rng.sample(places, min(8, len(places))):
            link = encode('is' if step < 0 else 'is in the')
            segments += [
                ([*encode('The'), words[i], *link], False),
                ([words[i + step]], True),
                (encode('.'), False),
            ]
        return _join(segments)

    def _caption(self, scene: Scene) -> Document:
        words = self._encode(grammar.scene_text(scene, self._rng))
        caption = self._encode(grammar.caption(scene, self._rng) + '\n')
        document = _join([([1], False), (words, False), (caption, True)])
        return document._replace(first=1, last=1 + len(words))

    def _small_talk(self) -> Document:
        """Remarks without an image; no answer is given twice."""
        rng = self._rng
        pairs = [wordings.small_talk(rng) for _ in range(rng.randint(1, 3))]
        return self._dialogue([], _with_distinct_answers(pairs))

    def _facts(self, scene: Scene) -> Document:
        """A scene, and all answers about its colours and places together."""
        shapes = [thing.shape for thing in scene.things]
        facts = [grammar.place(thing) for thing in scene.things]
        facts += [
            grammar.color(thing)
            for thing in scene.things
            if shapes.count(thing.shape) == 1
        ]
        self._rng.shuffle(facts)
        words = self._encode(grammar.scene_text(scene, self._rng))
        return self._dialogue(words, [('List facts.', ' '.join(facts))])

    def _conversation(self, scene: Scene) -> Document:
        """A scene and some questions; no answer is given twice."""
        rng = self._rng
        tasks = rng.choices(('color', 'place'), k=rng.randint(1, 4))
        if rng.random() < 0.85:
            # more than one, for instance a poem after a description
            number = rng.choice((1, 1, 2, 3))
            tasks += dict.fromkeys(rng.choices(LONG_TASKS, k=number))
        rng.shuffle(tasks)
        pairs = []
        for task in tasks:
            pair = grammar.question(task, scene, rng)
            if pair is None:  # no shape is the only one of its kind
                continue
            asked, answer = pair
            if rng.random() < _REWORDED:
                asked = wordings.reword(task, asked, rng)
            pairs.append((asked, answer))
        if not pairs:
            return self._facts(scene)
        if rng.random() < _WITH_SMALL_TALK:
            place = rng.randint(0, len(pairs))
            pairs.insert(place, wordings.small_talk(rng))
        words = self._encode(grammar.scene_text(scene, rng))
        return self._dialogue(words, _with_distinct_answers(pairs))

    def _dialogue(
        self, words: list[int], pairs: list[tuple[str, str]]
    ) -> Document:
        """Questions and answers in the format of chat, after a scene.

        The questions are typed in the ways of users.
        """
        encode = self._encode
        opening = encode('###Human: <Img>' if words else '###Human: ')
        segments = [([1, *opening], False), (words, False)]
        prefix = '</Img> ' if words else ''
        for question, answer in pairs:
            asked = wordings.retype(question, self._rng)
            segments += [
                (encode(f'{prefix}{asked} ###Assistant: '), False),
                (encode(f'{answer}###'), True),
            ]
            prefix = 'Human: '
        first = 1 + len(opening)
        return _join(segments)._replace(first=first, last=first + len(words))


def batches(
    draw: Callable[[], Document], tokens: int, rng: random.Random
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield batches of documents of similar length, indefinitely.

    Args:
        draw: Draws a document; 1,024 are drawn at a time.
        tokens: Maximum number of tokens of a batch, padding included.
        rng: Draws the order of the batches.

    Yields:
        ``ids`` and ``labels`` (B, T), -100 where not supervised, and
        ``scene`` (B, T) bool: the words of the scene.
    """
    while True:
        pool = sorted(
            (draw() for _ in range(_POOL)),
            key=lambda document: len(document.ids),
        )
        groups, start = [], 0
        for end in range(1, len(pool) + 1):
            too_wide = end < len(pool) and (
                (end + 1 - start) * len(pool[end].ids) > tokens
            )
            if too_wide or end == len(pool):
                groups.append(pool[start:end])
                start = end
        rng.shuffle(groups)
        for group in groups:
            width = len(group[-1].ids)
            ids = torch.zeros(len(group), width, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            scene = torch.zeros(len(group), width, dtype=torch.bool)
            for i, document in enumerate(group):
                sequence = torch.tensor(document.ids)
                learn = torch.tensor(document.supervised)
                ids[i, : len(sequence)] = sequence
                labels[i, : len(sequence)][learn] = sequence[learn]
                scene[i, document.first : document.last] = True
            yield ids, labels, scene


def _with_distinct_answers(
    pairs: list[tuple[str, str]],
) -> list[tuple[str, str]]:
    """Keep the last of the questions with the same answer."""
    return list({pair[1]: pair for pair in pairs}.values())


def _join(segments: Sequence[tuple[Sequence[int], bool]]) -> Document:
    """Join tokens, each part supervised or not."""
    return Document(
        [token for part, _ in segments for token in part],
        [learn for part, learn in segments for _ in part],
    )
