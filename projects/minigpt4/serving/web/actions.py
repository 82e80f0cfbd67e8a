# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions of the web page, such as asking and clearing.

Each returns updates of the page: a dict of component names and new values.
"""

import html
from collections.abc import Callable, Iterator
from typing import Any

from ..http.request_limits import RequestLimits
from .controls import generation_settings
from .display import chatbot_messages, error_text
from .web_session import SessionBusy, WebSession

_SESSION_EXPIRED = (
    'the page was inactive for too long, so the server has deleted the chat; '
    'this is a new chat.'
)
# the buttons of the question box while it accepts a question, or an answer
# is generated
_READY = dict(submit_btn=True, stop_btn=False)
_GENERATING = dict(submit_btn=False, stop_btn=True)


class Actions:
    """The actions of the web page.

    Args:
        new_session: Creates a session.
        examples: See :func:`~minigpt4.serving.web.example_list.
            load_examples`.
        limits: Limits of a question; None for the page's own.
    """

    def __init__(
        self,
        new_session: Callable[[], WebSession],
        examples: list[dict[str, Any]],
        limits: RequestLimits | None = None,
    ) -> None:
        self.new_session = new_session
        self.examples = examples
        self.limits = limits

    def open_page(self) -> dict[str, Any]:
        """Create a session and enable the question box."""
        return dict(session=self.new_session(), box=_update(interactive=True))

    def ask(
        self,
        session: WebSession | None,
        message: dict[str, Any],
        *controls: Any,
    ) -> Iterator[dict[str, Any]]:
        """Answer a question.

        Args:
            session: The session; None if the server has deleted it.
            message: ``text`` and ``files`` of the question box.
            controls: Values of the controls.
        """
        expired = session is None
        session = session or self.new_session()
        steps = self._steps(session.ask, controls, message)
        for update in self._follow(session, steps, message):
            if expired and not session.closed:
                update.update(session=session)
                if not update['notice']['visible']:
                    update.update(notice=_notice(_SESSION_EXPIRED))
            yield update

    def regenerate(
        self, session: WebSession | None, *controls: Any
    ) -> Iterator[dict[str, Any]]:
        """Answer the last question again."""
        session = session or self.new_session()
        steps = self._steps(session.regenerate, controls)
        yield from self._follow(session, steps, None)

    @staticmethod
    def stop(session: WebSession | None) -> None:
        """Cancel the answer that is being generated."""
        if session is not None:
            session.stop()

    @staticmethod
    def close(session: WebSession | None) -> None:
        """Close the session."""
        if session is not None:
            session.close()

    def clear(self, session: WebSession | None) -> dict[str, Any]:
        """Start a new chat."""
        new = self.new_session()
        if session is not None:
            new.replace(session)
        return dict(
            _empty_chat(),
            session=new,
            files=_update(value=None, visible=False),
            box=_update(value=None, **_READY),
        )

    def export(self, session: WebSession | None) -> dict[str, Any]:
        """Offer the chat as files."""
        try:
            files = (session or self.new_session()).export()
        except Exception as error:
            return dict(notice=_notice(error_text(error)))
        return dict(files=_update(value=files, visible=True))

    def choose_example(self, index: int) -> dict[str, Any]:
        """Put an example into the question box."""
        card = self.examples[index]
        return dict(text=card['question'], files=card['images'])

    def _steps(
        self,
        answer: Callable[..., Iterator[None]],
        controls: tuple,
        message: dict[str, Any] | None = None,
    ) -> Iterator[None]:
        """Check the controls, then answer with their settings."""
        settings = generation_settings(*controls, limits=self.limits)
        values = () if message is None else (message['text'], message['files'])
        yield from answer(*values, **settings)

    def _follow(
        self,
        session: WebSession,
        steps: Iterator[None],
        message: dict[str, Any] | None,
    ) -> Iterator[dict[str, Any]]:
        """Display an answer while it is generated.

        A message that could not be answered returns to the question box,
        unless it was sent twice and is being answered.
        """
        num_turns = len(session.turns)
        box: dict[str, Any] = dict(_GENERATING)
        if message:
            box['value'] = None
        last = dict(box=_update(**_READY))
        try:
            for _ in steps:
                if session.closed:
                    break
                yield dict(_chat(session), box=_update(**box))
                box.pop('value', None)
        except SessionBusy as error:
            restored = {}
            if message and not _is_last_question(session, message):
                restored = dict(value=message)
            yield dict(
                box=_update(**restored), notice=_notice(error_text(error))
            )
            return
        except Exception as error:
            box.update(_READY)
            if message and len(session.turns) == num_turns:
                box['value'] = message
            last = dict(box=_update(**box), notice=_notice(error_text(error)))
        if session.closed:
            # an update may have been drawn after the chat was cleared
            yield dict(_empty_chat(), box=_update(**_READY))
        else:
            yield dict(_chat(session), **last)


def _chat(session: WebSession) -> dict[str, Any]:
    """The chat of a session."""
    return dict(
        chat=chatbot_messages(session.turns),
        usage=session.usage,
        notice=_notice(session.notice),
    )


def _is_last_question(session: WebSession, message: dict[str, Any]) -> bool:
    """Whether the last turn of the chat is about this message."""
    turns = session.turns
    return bool(turns) and turns[-1].question == message['text'].strip()


def _empty_chat() -> dict[str, Any]:
    """A chat without turns."""
    return dict(chat=[], usage='', notice=_notice(''))


def _notice(text: str) -> dict[str, Any]:
    """The notice above the question box; hidden without a text."""
    escaped = html.escape(text[:1].upper() + text[1:])
    return _update(value=escaped, visible=bool(text))


def _update(**changes: Any) -> dict[str, Any]:
    """An update of a component of the page."""
    import gradio as gr

    return gr.update(**changes)
