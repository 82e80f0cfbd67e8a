# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The web page: a chat about images, built with Gradio.

All sessions share one engine; each has its own chat (``web_session.py``).
The page loads nothing from the internet and sends no statistics.
"""

import hmac
import html
import inspect
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...deprecated import renamed
from ...generation.sampling_params import SamplingParams
from ...generation.worker import EngineWorker
from ...images.request_images import ImageSources
from ...models import MiniGPT4
from ..http.request_limits import RequestLimits
from .actions import Actions
from .content_policy import ContentPolicy
from .controls import MAX_BEAMS
from .event_checks import event_checks
from .example_list import EXAMPLES, example_hint, load_examples
from .guard import PageGuard
from .layout import chat_column, control_inputs, example_gallery, theme
from .uploads import UNUSED_SECONDS, Uploads, upload_folder
from .web_session import WebSession

if TYPE_CHECKING:
    import gradio as gr
    from starlette.applications import Starlette

UPLOAD_BYTES = 2**30  # of all uploaded images
_STYLE = Path(__file__).parent / 'page.css'
_CLEANUP_SECONDS = 60  # between two searches for old files
_JSON_BYTES = 2**18  # of a question in addition to its text
_WAITING_EVENTS = 64  # in addition to the requests of the engine


def mount_page(
    app: 'Starlette',
    worker: EngineWorker,
    model: MiniGPT4,
    name: str = 'MiniGPT-4',
    api_key: str | None = None,
    sources: ImageSources | None = None,
    max_new_tokens: int = 1000,
    max_images: int = 8,
    limits: RequestLimits | None = None,
    upload_bytes: int = UPLOAD_BYTES,
) -> None:
    """Mount the page at ``/`` of a server, after its existing routes.

    Args:
        app: The server.
        worker: Runs the engine.
        model: The model of the engine.
        name: Name of the model, to display.
        api_key: Required as the password, if the server has one.
        sources: Decodes images, with limits.
        max_new_tokens: The most tokens of an answer.
        max_images: The most images of one turn.
        limits: Limits of a question, instead of the previous two.
        upload_bytes: The most bytes of all uploaded images on disk.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
    """
    gr = _import_gradio()
    from starlette.middleware import Middleware

    sources = sources or ImageSources()
    limits = limits or _limits(max_new_tokens, max_images)
    uploads = Uploads(
        upload_folder(), upload_bytes, sources.limits.bytes, (EXAMPLES,)
    )
    page = build_page(
        worker, model, name, sources, limits=limits, uploads=uploads
    )
    guard = Middleware(
        PageGuard,
        uploads=uploads,
        events=event_checks(page),
        max_files=limits.images,
        # JSON escapes a character with at most six bytes, \\uXXXX
        max_json_bytes=6 * limits.text + _JSON_BYTES,
    )
    app.add_middleware(ContentPolicy)
    gr.mount_gradio_app(
        app,
        page,
        path='/',
        app_kwargs=dict(middleware=[guard]),
        footer_links=[],
        auth=None if api_key is None else partial(_is_allowed, api_key),
        auth_message='Any name; the password is the API key of the server.',
        theme=theme(),
        # not as css, which Gradio applies only inside its container
        head=f'<style>{_STYLE.read_text("utf-8")}</style>',
        max_file_size=sources.limits.bytes,
        ssr_mode=False,
    )


def build_page(
    worker: EngineWorker,
    model: MiniGPT4,
    name: str = 'MiniGPT-4',
    sources: ImageSources | None = None,
    max_new_tokens: int = 1000,
    max_images: int = 8,
    limits: RequestLimits | None = None,
    uploads: Uploads | None = None,
) -> 'gr.Blocks':
    """Build the page without its theme, style and request checks.

    Args:
        worker: Runs the engine.
        model: The model of the engine.
        name: Name of the model, to display.
        sources: Decodes images, with limits.
        max_new_tokens: The most tokens of an answer.
        max_images: The most images of one turn.
        limits: Limits of a question, instead of the previous two.
        uploads: The uploaded files. Without it they are neither checked nor
            deleted when their question is answered.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
    """
    limits = limits or _limits(max_new_tokens, max_images)
    gr = _import_gradio()
    gr.set_static_paths([EXAMPLES])
    new_session = partial(
        WebSession,
        worker,
        sources,
        limits.images,
        limits.text,
        limits.seconds,
        uploads,
    )
    actions = Actions(new_session, load_examples(nano='nano' in name), limits)
    with gr.Blocks(
        title='MiniGPT-4',
        analytics_enabled=False,
        delete_cache=(_CLEANUP_SECONDS, UNUSED_SECONDS),
    ) as page:
        session = gr.State(None, delete_callback=Actions.close)
        gr.HTML(
            '<h1>MiniGPT-4</h1> <p>Ask about your images.</p> '
            f'<code>{html.escape(name)}</code>',
            elem_id='title',
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=280):
                column = chat_column()
            with gr.Column(scale=3, min_width=280):
                gallery = example_gallery(actions.examples, example_hint(name))
                controls = control_inputs(
                    SamplingParams.of(model.generation), limits
                )
        outputs = dict(
            session=session,
            chat=column.chat,
            box=column.box,
            notice=column.notice,
            usage=column.usage,
            files=column.files,
        )
        bind = partial(_bind, outputs)
        bind(page.load, actions.open_page, [])
        bind(column.box.submit, actions.ask, [session, column.box, *controls])
        bind(
            column.buttons['regenerate'].click,
            actions.regenerate,
            [session, *controls],
        )
        column.box.stop(Actions.stop, [session], api_visibility='private')
        bind(column.buttons['clear'].click, actions.clear, [session])
        bind(column.chat.clear, actions.clear, [session])
        bind(column.buttons['export'].click, actions.export, [session])

        def choose(event: Any) -> dict[str, Any]:
            return actions.choose_example(event.index)

        # Gradio passes the event to an argument with this annotation
        choose.__annotations__['event'] = gr.SelectData
        gallery.select(choose, None, [column.box], api_visibility='private')
    # one thread waits for each answer; the engine limits their number
    max_events = _WAITING_EVENTS + worker.max_waiting + worker.engine.slots
    page.max_threads = max_events
    page.create_limiter()
    return page.queue(
        default_concurrency_limit=None, api_open=False, max_size=max_events
    )


def _bind(
    outputs: dict[str, Any],
    event: Callable[..., Any],
    action: Callable[..., Any],
    inputs: list[Any],
) -> None:
    """Call an action on an event; its updates name the output components."""

    def by_component(update: dict[str, Any]) -> dict[Any, Any]:
        return {outputs[name]: value for name, value in update.items()}

    def run(*values: Any) -> dict[Any, Any]:
        return by_component(action(*values))

    def stream(*values: Any) -> Iterator[dict[Any, Any]]:
        yield from map(by_component, action(*values))

    event(
        stream if inspect.isgeneratorfunction(action) else run,
        inputs,
        list(outputs.values()),
        show_progress='hidden',
        api_visibility='private',
        # Gradio's default, 'once', ignores an event between the last update
        # of the previous one and its end: a question that is asked
        # immediately would be lost. The session refuses a second answer at
        # the same time.
        trigger_mode='multiple',
    )


def _limits(max_new_tokens: int, max_images: int) -> RequestLimits:
    return RequestLimits(
        images=max_images, max_tokens=max_new_tokens, beams=MAX_BEAMS
    )


def _import_gradio() -> Any:
    """Import Gradio with its statistics and run history disabled."""
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['GRADIO_RUN_HISTORY'] = 'False'
    upload_folder()  # Gradio reads it from the environment
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'the web page needs Gradio ({error}); install it with: pip '
            "install 'minigpt4[web]'"
        ) from error
    return gradio


def _is_allowed(api_key: str, name: str, password: str) -> bool:
    """Whether a login has the right password; any name is accepted."""
    return hmac.compare_digest(password.encode(), api_key.encode())


__getattr__ = renamed(__name__, {'examples': 'load_examples'})
