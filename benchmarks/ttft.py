# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""CPU time to the first token of a turn of a chat.

Turn 1 is a new picture and a question, to an engine that has talked about
other pictures; a second row asks something new about a picture that was
asked about before. Turns 2 and 3 come after answers of 150 tokens, whose
length is forced. The peer keeps the image tokens of a chat, as the official
demo does, and reads the whole chat in each turn.

Both sides render and tokenise with our ``render_chat``, which spells former
answers as the model wrote them: what a random model writes would not be
spelled so again. This saves the peer its tokenising of these answers.

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
# turn, with new pictures or one alone: the goal
GOALS = {
    'turn-1': 1.3,
    'turn-1-repeated-image': 2.5,
    'turn-2': 9,
    'turn-3': 14,
}
COUNT = 64  # pictures and questions, more than there are repetitions
LOOKED_AT = 3  # repetitions that the guard compares
WORDS = 'a small dog near the river'  # whose likelihood it compares


class Ours:
    """A chat through our engine.

    Args:
        model: The model.
        settings: Of the engine.
    """

    def __init__(self, model, **settings) -> None:
        from minigpt4.generation.engine import Engine

        self.engine = Engine(model, slots=1, **settings)
        self.model, self.tokenizer = model, model.decoder.tokenizer

    def answer(self, turns: list, image: Tensor, tokens: int) -> list[int]:
        """Ids of an answer of so many tokens."""
        from minigpt4.chat.session import build_prompt

        prompt = build_prompt(
            self.model, turns, [image], max_new_tokens=tokens
        )
        answer = self.engine.submit(
            prompt.tokenized, prompt.images, max_new_tokens=tokens
        )
        while self.engine.step():
            pass
        if answer.error is not None:
            raise answer.error
        return answer.token_ids

    def likelihood(self, turns: list, image: Tensor) -> float:
        """Mean log-likelihood of the words :data:`WORDS` as an answer."""
        from minigpt4.chat.session import build_prompt

        prompt = build_prompt(self.model, turns, [image], max_new_tokens=16)
        (mean,) = self.engine.rank(
            prompt.tokenized, prompt.images, [WORDS], end=False
        )
        return mean


class Official:
    """A chat the official way.

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
        """Ids of a chat; sees the image if it is new."""
        from minigpt4.prompts import (
            TEMPLATES,
            render_chat,
            tokenize,
        )

        if len(turns) == 1 or image is not self.image:  # uploaded
            self.image = image
            self.tokens, _ = self.model.encode_images(image[None])
        segments = render_chat(turns, TEMPLATES['vicuna_v0'])
        return tokenize(segments, self.tokenizer).ids


def said(tokenizer, question: str, ids: list[int]):
    """A turn that is over; the answer and its ``###`` spelled as written."""
    from minigpt4.prompts import Turn

    word, glued = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in ('a', 'a###')
    )
    spelling = (*ids, *glued[len(word) :])
    return Turn(question, tokenizer.decode(ids), spelling)


class Chat:
    """Repetitions of a turn, a question of its own each.

    Args:
        side: What answers.
        images: The pictures.
        turn: A name of ``GOALS``.
        length: Tokens of the answers before.

    Attributes:
        answers: Ids of these.
    """

    def __init__(
        self,
        side: 'Ours | Official',
        images: Tensor,
        turn: str,
        length: int = ANSWER,
    ) -> None:
        self.side = side
        # a picture is one object in all of its chat
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
            self.before.append(said(side.tokenizer, question, ids))

    def turns(self, question: str) -> list:
        """The chat with another question."""
        from minigpt4.prompts import Turn

        if not self.before:
            question = f'<ImageHere> {question}'
        return [*self.before, Turn(question)]

    def next(self) -> tuple[list, Tensor]:
        """The chat with the next question, and its picture."""
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
        made = Ours(generation.our_model(folder))
    else:
        made = Official(generation.official_model(folder))
        images = generation.normalised(images)
    chat = Chat(made, images, turn, length)
    guard = dict(
        first_tokens=[chat.first_token()[1] for _ in range(LOOKED_AT)],
        likelihood=[made.likelihood(*chat.next()) for _ in range(LOOKED_AT)],
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
            peer_name='official chat, re-stated',
            rate=False,
            repeats=min(repeats, COUNT - 2 * LOOKED_AT),
        )


if __name__ == '__main__':
    harness.worker(lambda: build(*sys.argv[1:3], Path(sys.argv[3])), 0)
