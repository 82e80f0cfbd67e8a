# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The texts that the page displays."""

from minigpt4.generation.worker import QueueFull
from minigpt4.serving.web.display import (
    DisplayedTurn,
    chatbot_messages,
    error_text,
    escape_html,
)


def test_errors_are_one_sentence(caplog):
    assert 'try again in 4 seconds' in error_text(QueueFull(9, 4.0))
    assert (
        error_text(ValueError('x is 1; expected 2.')) == 'x is 1; expected 2.'
    )
    assert not caplog.records
    assert error_text(RuntimeError('CUDA\nlong')) == 'RuntimeError: CUDA'
    assert error_text(KeyError()) == 'KeyError: no reason given'
    assert len(caplog.records) == 2  # with their tracebacks


def test_images_precede_their_question():
    turns = [DisplayedTurn('What?', ['a.png', 'b.png'], answer='This.')]
    assert chatbot_messages(turns) == [
        dict(role='user', content=dict(path='a.png')),
        dict(role='user', content=dict(path='b.png')),
        dict(role='user', content='What?'),
        dict(role='assistant', content='This.'),
    ]


def test_html_is_escaped_outside_of_code():
    assert escape_html('<h1>A & B</h1>') == '&lt;h1>A &amp; B&lt;/h1>'
    code = '```html\n<h1>A & B</h1>\n```'
    assert escape_html(f'So:\n{code}\n<b>') == f'So:\n{code}\n&lt;b>'
    assert escape_html('```html\n<h1>') == '```html\n<h1>'  # incomplete
    assert escape_html('`a < b` <i>') == '`a < b` &lt;i>'
