# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""CPU time to the first token of a turn of a chat.

Turn 1 is a new image and a question, to an engine that has answered about
other images; a second row asks a new question about an earlier image. Turns 2
and 3 come after answers of 150 tokens, whose length is fixed. The peer stores
the image features of a chat, as the official demo does, and computes the
complete chat in each turn.

Both sides render and tokenise with our ``render_chat``, which uses the token
ids of earlier answers: the text of a random model has other token ids when it
is tokenised again. This saves the peer the tokenization of these answers.

    python benchmarks/ttft.py SIDE TURN FOLDER
"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import generation
import harness
import mini_prop
import torch
from torch import Tensor

ANSWER = 150  # tokens
# goals of the turns, with new images or one
GOALS = {
    'turn-1': 1.3,
    'turn-1-repeated-image': 2.5,
    'turn-2': 9,
    'turn-3': 14,
}
COUNT = 64  # images and questions, more than repetitions
GUARD_REPEATS = 3  # repetitions that the guard compares
WORDS = 'a small dog near the river'  # the guard compares its likelihood


class Ours:
    """A chat through our engine.

    Args:
        model: The model.
        settings: Arguments of the engine.
    """

    def __init__(self, model, **settings) -> None:
        from minigpt4.generation.engine import Engine

        self.engine = Engine(model, slots=1, **settings)
        self.model, self.tokenizer = model, model.decoder.tokenizer

    def answer(self, turns: list, image: Tensor, tokens: int) -> list[int]:
        """Ids of an answer of this number of tokens."""
        from minigpt4.chat.session import build_prompt

        prompt = build_prompt(
            self.model, turns, [image], max_new_tokens=tokens
        )
        request = self.engine.submit(
            prompt.tokenized, prompt.images, max_new_tokens=tokens
        )
        while self.engine.step():
            pass
        if request.error is not None:
            raise request.error
        return request.token_ids

    def likelihood(self, turns: list, image: Tensor) -> float:
        """Mean log-likelihood of :data:`WORDS` as an answer."""
        from minigpt4.chat.session import build_prompt

        prompt = build_prompt(self.model, turns, [image], max_new_tokens=16)
        (mean,) = self.engine.rank(
            prompt.tokenized, prompt.images, [WORDS], end=False
        )
        return mean


class Official:
    """A chat as in the official code.

    Args:
        model: The model.
    """

    def __init__(self, model) -> None:
        from official_chat import OfficialChat

        self.model, self.tokenizer = model, model.tokenizer
        self.chat = OfficialChat(model)
        self.image: Tensor | None = None
        self.tokens: Tensor | None = None

    def answer(self, turns: list, image: Tensor, tokens: int) -> list[int]:
        """As ours; ``image`` is normalised."""
        ids = self.prompt(turns, image)
        return self.chat.answer(ids, self.tokens, tokens)

    @torch.no_grad()
    def likelihood(self, turns: list, image: Tensor) -> float:
        """As ours."""
        ids = self.prompt(turns, image)
        words = self.tokenizer(WORDS, add_special_tokens=False).input_ids
        context = self.chat.context([*ids, *words[:-1]], self.tokens)
        seen = torch.ones(context.shape[:2], dtype=torch.long)
        logits, _ = self.chat.llama(context, seen, None)
        targets = torch.tensor(words)
        return -torch.nn.functional.cross_entropy(
            logits[0, -len(words) :], targets
        ).item()

    @torch.no_grad()
    def prompt(self, turns: list, image: Tensor) -> list[int]:
        """Ids of a chat; encodes the image if it is new."""
        from minigpt4.prompts import (
            TEMPLATES,
            render_chat,
            tokenize,
        )

        if len(turns) == 1 or image is not self.image:  # a new upload
            self.image = image
            self.tokens, _ = self.model.encode_images(image[None])
        segments = render_chat(turns, TEMPLATES['vicuna_v0'])
        return tokenize(segments, self.tokenizer).ids


def answered_turn(tokenizer, question: str, ids: list[int]):
    """A turn with its answer and the token ids of it and its ``###``."""
    from minigpt4.prompts import Turn

    word, glued = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in ('a', 'a###')
    )
    spelling = (*ids, *glued[len(word) :])
    return Turn(question, tokenizer.decode(ids), spelling)


class Chat:
    """Repetitions of a turn, each with another question.

    Args:
        side: The side that answers.
        images: The images.
        turn: A name of ``GOALS``.
        length: Tokens of the earlier answers.

    Attributes:
        answers: Ids of the earlier answers.
    """

    def __init__(
        self,
        side: 'Ours | Official',
        images: Tensor,
        turn: str,
        length: int = ANSWER,
    ) -> None:
        self.side = side
        # one object in all turns of a chat
        self.images = list(images)[: COUNT if turn == 'turn-1' else 1]
        self.questions = [
            f'What about {words}?'
            for words in mini_prop.captions(COUNT + 2, 6, 6)
        ]
        self.before: list = []
        self.answers: list[list[int]] = []
        self.asked = 0
        for _ in range(int(turn.split('-')[1]) - 1):
            turns = self.turns(self.questions.pop())
            ids = side.answer(turns, self.images[0], length)
            self.answers.append(ids)
            question = turns[-1].question
            self.before.append(answered_turn(side.tokenizer, question, ids))

    def turns(self, question: str) -> list:
        """The chat with another question."""
        from minigpt4.prompts import Turn

        if not self.before:
            question = f'<ImageHere> {question}'
        return [*self.before, Turn(question)]

    def next(self) -> tuple[list, Tensor]:
        """The chat with the next question, and its image."""
        i = self.asked
        self.asked += 1
        return self.turns(self.questions[i]), self.images[i % len(self.images)]

    def first_token(
        self, clock: Callable[[], float] = time.process_time
    ) -> tuple[float, int]:
        """Seconds of a clock to the first token, and that token."""
        turns, image = self.next()
        start = clock()
        (token,) = self.side.answer(turns, image, 1)
        return clock() - start, token


def build(
    side: str, turn: str, folder: Path, length: int = ANSWER
) -> tuple[Callable, dict]:
    """A worker's work and guard."""
    torch.set_num_threads(1)
    images = mini_prop.images(COUNT, (folder / 'size').read_text())
    if side == 'ours':
        chat_side = Ours(generation.our_model(folder))
    else:
        chat_side = Official(generation.official_model(folder))
        images = generation.normalised(images)
    chat = Chat(chat_side, images, turn, length)
    guard = dict(
        first_tokens=[chat.first_token()[1] for _ in range(GUARD_REPEATS)],
        likelihood=[
            chat_side.likelihood(*chat.next()) for _ in range(GUARD_REPEATS)
        ],
    )
    if chat.answers:
        guard['answers'] = chat.answers
    return (lambda: chat.first_token()[0]), guard


def measure(repeats: int) -> Iterator[dict]:
    """The rows."""
    folder = mini_prop.weights()
    for turn, goal in GOALS.items():
        yield harness.compare(
            f'ttft {turn}',
            *(
                harness.side(__file__, side, turn, folder)
                for side in ('ours', 'official')
            ),
            'CPU-s to the first token',
            goal,
            peer_name='official chat, reimplemented',
            rate=False,
            repeats=min(repeats, COUNT - 2 * GUARD_REPEATS),
        )


if __name__ == '__main__':
    harness.worker(lambda: build(*sys.argv[1:3], Path(sys.argv[3])), 0)
