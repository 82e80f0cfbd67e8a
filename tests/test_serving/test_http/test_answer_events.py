# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The text of answers, from the engine's thread to the event loop."""

import asyncio
import threading

import pytest

pytest.importorskip('starlette', reason='needs minigpt4[serve]')

from minigpt4.serving.http.answer_events import AnswerPiece, answer_pieces


class Words:
    """A request whose words a thread adds as fast as it can."""

    def __init__(self, first, words):
        self.first, self.words = first, words
        self.text_tokens = 0
        self.callbacks = []

    def listen(self, callback):
        if self.first:
            self.text_tokens = 1
            callback(self.first)
        self.callbacks.append(callback)

    def add_all(self):
        for word in [*self.words, None]:
            if word is not None:
                self.text_tokens += 1
            for callback in self.callbacks:
                callback(word)


def test_text_that_arrives_during_a_send_is_joined_to_the_next_piece():
    """None of the words is lost or doubled."""
    words = [f'{i} ' for i in range(3000)]

    async def receive():
        generation, received = Words('first ', words), []
        thread = threading.Thread(target=generation.add_all)
        async for piece in answer_pieces([generation]):
            received.append(piece)
            if len(received) == 1:
                thread.start()
            if len(received) == 2:
                thread.join()  # every word has been added
        return received

    received = asyncio.run(asyncio.wait_for(receive(), 120))
    assert received[0] == AnswerPiece(0, 'first ', 1, False)
    assert len(received) in (2, 3)
    assert ''.join(piece.text for piece in received[1:]) == ''.join(words)
    assert received[-1].ended and received[-1].tokens == 3001
    assert not any(piece.ended for piece in received[:-1])


def test_pieces_of_several_choices():
    """Two choices may have one request, and one may add text already."""
    shared = Words('', ['a ', 'b '])
    other = Words('c ', [f'{i} ' for i in range(500)])

    async def receive():
        texts, ended = ['', '', ''], []
        threads = [
            threading.Thread(target=one.add_all) for one in (shared, other)
        ]
        pieces = answer_pieces([shared, other, shared])
        async for piece in pieces:
            if not any(texts):
                for thread in threads:
                    thread.start()
            texts[piece.choice] += piece.text
            ended += [piece.choice] * piece.ended
        return texts, ended

    texts, ended = asyncio.run(asyncio.wait_for(receive(), 120))
    assert texts == ['a b ', 'c ' + ''.join(other.words), 'a b ']
    assert sorted(ended) == [0, 1, 2]
