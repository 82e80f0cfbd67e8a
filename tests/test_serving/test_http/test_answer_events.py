# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The text of an answer, from the engine's thread to the event loop."""

import asyncio
import threading

import pytest

pytest.importorskip('starlette', reason='needs minigpt4[serve]')

from minigpt4.serving.http.answer_events import text_pieces


def test_text_that_arrives_during_a_send_is_joined_to_the_next_piece():
    """One thread adds words as fast as it can; none is lost or doubled."""
    words = [f'{i} ' for i in range(3000)]

    class GenerationRequest:
        def listen(self, add):
            add('first ')
            self.thread = threading.Thread(
                target=lambda: [add(word) for word in [*words, None]]
            )

    async def receive():
        generation, received = GenerationRequest(), []
        async for piece in text_pieces(generation):
            received.append(piece)
            if len(received) == 1:
                generation.thread.start()
            if len(received) == 2:
                generation.thread.join()  # every word has been added
        return received

    received = asyncio.run(asyncio.wait_for(receive(), 20))
    assert received[0] == 'first ' and len(received) in (2, 3)
    assert ''.join(received[1:]) == ''.join(words)
