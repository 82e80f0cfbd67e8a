# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What happens on the web page when somebody does something there."""

import html
from collections.abc import Callable, Iterator
from typing import Any

from ..http.requests import RequestLimits
from .web_session import Busy, WebSession, messages, sentence, settings_of

_FORGOTTEN = (
    'the page was left for so long that the server has forgotten what was '
    'said; the chat begins anew.'
)
_ASKING = dict(submit_btn=True, stop_btn=False)  # the box: may ask
_ANSWERING = dict(submit_btn=False, stop_btn=True)  # the box: may stop


class Actions:
    """What the page does; each answer names parts of the page and says what
    becomes of them.

    Args:
        new_visit: Makes a visit.
        examples: See :func:`~minigpt4.serving.web.page.examples`.
        limits: What may be asked for; None for the page's own.
    """

    def __init__(
        self,
        new_visit: Callable[[], WebSession],
        examples: list[dict[str, Any]],
        limits: RequestLimits | None = None,
    ) -> None:
        self.new_visit = new_visit
        self.examples = examples
        self.limits = limits

    def enter(self) -> dict:
        """The page was opened."""
        return dict(visit=self.new_visit(), box=_update(interactive=True))

    def ask(
        self, visit: WebSession | None, asked: dict, *controls
    ) -> Iterator[dict]:
        """A question was sent, with or without pictures."""
        forgotten = visit is None
        visit = visit or self.new_visit()
        steps = self._steps(visit.ask, controls, asked)
        for update in self._follow(visit, steps, asked):
            if forgotten:
                update.update(visit=visit)
                if not update['notice']['visible']:
                    update.update(notice=_banner(_FORGOTTEN))
            yield update

    def regenerate(
        self, visit: WebSession | None, *controls
    ) -> Iterator[dict]:
        """The last answer is wanted anew."""
        visit = visit or self.new_visit()
        steps = self._steps(visit.regenerate, controls)
        yield from self._follow(visit, steps, None)

    def _steps(
        self, work: Callable, controls: tuple, asked: dict | None = None
    ) -> Iterator[None]:
        """Answer with the settings of the controls, if they are allowed."""
        settings = settings_of(*controls, limits=self.limits)
        values = () if asked is None else (asked['text'], asked['files'])
        yield from work(*values, **settings)

    @staticmethod
    def stop(visit: WebSession | None) -> None:
        """The answer that is being written is to end."""
        if visit is not None:
            visit.stop()

    @staticmethod
    def leave(visit: WebSession | None) -> None:
        """The browser has gone."""
        if visit is not None:
            visit.end()

    def clear(self, visit: WebSession | None) -> dict:
        """A new chat is wanted."""
        self.leave(visit)
        return dict(
            _empty(),
            visit=self.new_visit(),
            files=_update(value=None, visible=False),
            box=_update(value=None, **_ASKING),
        )

    def export(self, visit: WebSession | None) -> dict:
        """The chat is wanted as files."""
        try:
            files = (visit or self.new_visit()).export()
        except Exception as error:
            return dict(notice=_banner(sentence(error)))
        return dict(files=_update(value=files, visible=True))

    def example(self, index: int) -> dict:
        """An example was chosen: it goes into the box."""
        card = self.examples[index]
        return dict(text=card['question'], files=card['images'])

    def _follow(
        self, visit: WebSession, steps: Iterator[None], asked: dict | None
    ) -> Iterator[dict]:
        """Show an answer while it grows; what failed returns to the box."""
        turns = len(visit.shown)
        box: dict[str, Any] = dict(_ANSWERING)
        if asked:
            box['value'] = None
        try:
            for _ in steps:
                if visit.ended:
                    # what was drawn last may have come after the clearing
                    yield dict(_empty(), box=_update(**_ASKING))
                    return
                yield dict(_view(visit), box=_update(**box))
                box.clear()
            yield dict(_view(visit), box=_update(**_ASKING))
        except Busy as error:
            kept = dict(value=asked) if asked else {}
            yield dict(box=_update(**kept), notice=_banner(sentence(error)))
        except Exception as error:
            box.update(_ASKING)
            if asked and len(visit.shown) == turns:
                box['value'] = asked
            yield dict(
                _view(visit),
                box=_update(**box),
                notice=_banner(sentence(error)),
            )


def _view(visit: WebSession) -> dict:
    """What the page shows of a visit."""
    return dict(
        chat=messages(visit.shown),
        cost=visit.cost,
        notice=_banner(visit.notice),
    )


def _empty() -> dict:
    """What the page shows of a chat without turns."""
    return dict(chat=[], cost='', notice=_banner(''))


def _banner(text: str) -> dict:
    """The notice above the box; hidden without a text."""
    shown = html.escape(text[:1].upper() + text[1:])
    return _update(value=shown, visible=bool(text))


def _update(**changes) -> dict:
    """A change of a part of the page."""
    import gradio as gr

    return gr.update(**changes)
