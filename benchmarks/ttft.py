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
LOOKED_AT = 3  # first tokens that the guard compares


class Ours:
    """A chat through our engine.

    Args:
        model: The model, silenced.
        settings: Of the engine.
    """

    def __init__(self, model, **settings) -> None:
        from minigpt4.models.engine import Engine

        self.engine = Engine(model, slots=1, **settings)
        self.model, self.tokenizer = model, model.decoder.tokenizer

    def answer(self, turns: list, image: Tensor, tokens: int) -> list[int]:
        """Ids of an answer of so many tokens."""
        from minigpt4.inference.chat import build_prompt

        prompt = build_prompt(
            self.model, turns, [image], max_new_tokens=tokens
        )
        answer = self.engine.submit(
            prompt.row, prompt.images, max_new_tokens=tokens
        )
        while self.engine.step():
            pass
        if answer.error is not None:
            raise answer.error
        return answer.token_ids


class Official:
    """A chat the official way.

    Args:
        model: The model, silenced.
    """

    def __init__(self, model) -> None:
        from official_chat import OfficialChat

        self.model, self.tokenizer = model, model.tokenizer
        self.chat = OfficialChat(model)
        self.image: Tensor | None = None
        self.tokens: Tensor | None = None

    @torch.no_grad()
    def answer(self, turns: list, image: Tensor, tokens: int) -> list[int]:
        """As ours; ``image`` is normalised."""
        from minigpt4.prompts import TEMPLATES, render_chat, tokenize

        if len(turns) == 1 or image is not self.image:  # uploaded
            self.image = image
            self.tokens, _ = self.model.encode_images(image[None])
        segments = render_chat(turns, TEMPLATES['vicuna_v0'])
        row = tokenize(segments, self.tokenizer)
        return self.chat.answer(row.ids, self.tokens, tokens)


def said(tokenizer, question: str, ids: list[int]):
    """A turn that is over; the answer and its ``###`` spelled as written."""
    from minigpt4.prompts import Turn

    word, glued = (
        tokenizer(text, add_special_tokens=False).input_ids
        for text in ('a', 'a###')
    )
    spelling = (*ids, *glued[len(word) :])
    return Turn(question, tokenizer.decode(ids), spelling)


def conversations(
    chat: 'Ours | Official', images: Tensor, turn: str, length: int = ANSWER
) -> tuple[Callable[[], tuple[float, int]], list[list[int]]]:
    """What a repetition does, and the answers of the turns before.

    A repetition is the turn's question, another each time, up to the first
    token; it gives the seconds of the CPU and that token.
    """
    from minigpt4.prompts import Turn

    questions = [
        f'What about {words}?' for words in mini_prop.captions(COUNT + 2, 6, 6)
    ]
    before, answers = [], []
    for number in range(int(turn.split('-')[1]) - 1):
        question = questions.pop()
        if not before:
            question = f'<ImageHere> {question}'
        ids = chat.answer([*before, Turn(question)], images[0], length)
        answers.append(ids)
        before.append(said(chat.tokenizer, question, ids))
    asked = iter(range(COUNT))

    def ask() -> tuple[float, int]:
        i = next(asked)
        question = questions[i]
        if not before:
            question = f'<ImageHere> {question}'
        # one object for one picture
        image = pictures[i if turn == 'turn-1' else 0]
        start = time.process_time()
        (token,) = chat.answer([*before, Turn(question)], image, 1)
        return time.process_time() - start, token

    pictures = list(images)
    return ask, answers


def build(
    side: str, turn: str, folder: Path, length: int = ANSWER
) -> tuple[Callable, dict]:
    """A worker's work and guard."""
    torch.set_num_threads(1)
    images = mini_prop.images(COUNT, (folder / 'size').read_text())
    if side == 'ours':
        chat = Ours(generation.our_model(folder))
    else:
        chat = Official(generation.official_model(folder))
        images = generation.normalised(images)
    ask, answers = conversations(chat, images, turn, length)
    guard = dict(first_tokens=[ask()[1] for _ in range(LOOKED_AT)])
    if answers:
        guard['answers'] = answers
    return (lambda: ask()[0]), guard


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
            repeats=min(repeats, COUNT - LOOKED_AT),
        )


if __name__ == '__main__':
    harness.worker(lambda: build(*sys.argv[1:3], Path(sys.argv[3])), 0)
