# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The web page: a chat about pictures, made with Gradio.

All visits share one engine; each has a chat of its own (``visit.py``).
The page loads nothing from the internet and tells nobody about itself.
"""

import hmac
import html
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...generation.sampling import SamplingParams
from ...generation.worker import EngineWorker
from ...images.sources import ImageSources
from ...models import MiniGPT4
from ..http.requests import RequestLimits
from .actions import Actions
from .guard import PageGuard
from .uploads import UNUSED_SECONDS, Uploads, upload_folder
from .web_session import MOST_BEAMS, WAYS, WebSession

if TYPE_CHECKING:
    import gradio as gr
    from starlette.applications import Starlette

EXAMPLES = Path(__file__).parent / 'examples'
_STYLE = Path(__file__).parent / 'page.css'
UPLOAD_BYTES = 2**30  # of all uploaded pictures
_CHECK_SECONDS = 60  # between two looks for files that are too old
_JSON_BYTES = 2**18  # of a question besides its text
_WAITING = 64  # events of the page beyond the engine's places
# what a browser may load for the page: nothing from elsewhere
_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'self'"
)


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
    """Put the page at ``/`` of a server, behind the routes it has already.

    Args:
        app: The server.
        worker: Runs the engine.
        model: The model of the engine.
        name: What to call it.
        api_key: Asked for as the password, if the server has one.
        sources: Reads the pictures, with limits.
        max_new_tokens: The longest answer that can be asked for.
        max_images: The most pictures of one turn.
        limits: What a question may ask for, instead of the two before.
        upload_bytes: The most bytes of all uploaded pictures on disk.
    """
    gr = _gradio()
    from starlette.middleware import Middleware

    sources = sources or ImageSources()
    limits = limits or _limits(max_new_tokens, max_images)
    uploads = Uploads(
        upload_folder(), upload_bytes, sources.limits.bytes, (EXAMPLES,)
    )
    page = build_page(
        worker, model, name, sources, limits=limits, uploads=uploads
    )
    app.add_middleware(_Policy)
    gr.mount_gradio_app(
        app,
        page,
        path='/',
        app_kwargs=dict(
            middleware=[
                Middleware(
                    PageGuard,
                    uploads=uploads,
                    events=page.fns.keys(),
                    most_files=limits.images,
                    # a character is six bytes at most, as \\uXXXX
                    most_json_bytes=6 * limits.text + _JSON_BYTES,
                )
            ]
        ),
        footer_links=[],
        auth=None if api_key is None else partial(_may_enter, api_key),
        auth_message='Any name; the password is the API key of the server.',
        theme=_theme(),
        # not as css: Gradio would let it apply inside its container alone
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
    """Build the page; :func:`mount_page` also dresses and serves it.

    Args:
        worker: Runs the engine.
        model: The model of the engine.
        name: What to call it.
        sources: Reads the pictures, with limits.
        max_new_tokens: The longest answer that can be asked for.
        max_images: The most pictures of one turn.
        limits: What a question may ask for, instead of the two before.
        uploads: The uploaded files; without it they are neither checked nor
            removed when their question is answered.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
    """
    limits = limits or _limits(max_new_tokens, max_images)
    gr = _gradio()
    gr.set_static_paths([EXAMPLES])
    new_visit = partial(
        WebSession,
        worker,
        sources,
        limits.images,
        limits.text,
        limits.seconds,
        uploads,
    )
    actions = Actions(new_visit, examples(nano='nano' in name), limits)
    with gr.Blocks(
        title='MiniGPT-4',
        analytics_enabled=False,
        delete_cache=(_CHECK_SECONDS, UNUSED_SECONDS),
    ) as page:
        visit = gr.State(None, delete_callback=Actions.leave)
        gr.HTML(
            '<h1>MiniGPT-4</h1> <p>Ask about your pictures.</p> '
            f'<code>{html.escape(name)}</code>',
            elem_id='title',
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=280):
                chat, box, parts, buttons = _chat_column()
            with gr.Column(scale=3, min_width=280):
                gallery = _gallery(actions.examples)
                controls = _controls(
                    SamplingParams.of(model.generation), limits
                )

        parts = dict(visit=visit, chat=chat, box=box, **parts)

        def on(event: Callable, do: Callable, inputs: list) -> None:
            """Have something done; its answers name parts of the page."""

            def named(update: dict) -> dict:
                return {parts[name]: value for name, value in update.items()}

            def at_once(*values):
                return named(do(*values))

            def in_steps(*values):
                for update in do(*values):
                    yield named(update)

            steps = do in (actions.ask, actions.regenerate)
            event(
                in_steps if steps else at_once,
                inputs,
                list(parts.values()),
                show_progress='hidden',
                api_visibility='private',
            )

        on(page.load, actions.enter, [])
        on(box.submit, actions.ask, [visit, box, *controls])
        on(
            buttons['regenerate'].click,
            actions.regenerate,
            [visit, *controls],
        )
        box.stop(Actions.stop, [visit], api_visibility='private')
        on(buttons['clear'].click, actions.clear, [visit])
        on(chat.clear, actions.clear, [visit])
        on(buttons['export'].click, actions.export, [visit])

        def choose(event) -> dict:
            return actions.example(event.index)

        choose.__annotations__['event'] = gr.SelectData  # Gradio's own way
        gallery.select(choose, None, [box], api_visibility='private')
    # One thread waits for each answer; the engine bounds their number.
    most = _WAITING + worker.max_waiting + worker.engine.slots
    page.max_threads = most
    page.create_limiter()
    return page.queue(
        default_concurrency_limit=None, api_open=False, max_size=most
    )


def _limits(max_new_tokens: int, max_images: int) -> RequestLimits:
    return RequestLimits(
        images=max_images, max_tokens=max_new_tokens, beams=MOST_BEAMS
    )


def examples(nano: bool) -> list[dict[str, Any]]:
    """The examples: what may be asked about which pictures.

    Args:
        nano: Whether to begin with scenes of the nano world.

    Returns:
        Dicts with ``title``, ``question`` and ``images`` (paths).
    """
    found = json.loads((EXAMPLES / 'examples.json').read_text('utf-8'))
    return [
        {**one, 'images': [str(EXAMPLES / name) for name in one['images']]}
        for one in found
        if nano or not one.get('nano')
    ]


def _gradio():
    """Gradio, which neither reports home nor keeps what was asked."""
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['GRADIO_RUN_HISTORY'] = 'False'
    upload_folder()  # Gradio takes it from the environment
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'the web page needs Gradio ({error}); install it with: pip '
            "install 'minigpt4[web]'"
        ) from error
    return gradio


def _theme():
    """Calm colours, and the fonts of the reader's own system."""
    import gradio as gr

    return gr.themes.Soft(
        primary_hue='indigo',
        secondary_hue='indigo',
        neutral_hue='slate',
        radius_size='lg',
        font=['system-ui', 'sans-serif'],
        font_mono=['ui-monospace', 'monospace'],
    )


def _chat_column() -> tuple:
    """The chat, the box to ask in, further parts and buttons by name."""
    import gradio as gr

    chat = gr.Chatbot(
        height='62vh',
        show_label=False,
        label='Chat',
        buttons=['copy'],
        latex_delimiters=[],
        allow_tags=False,
        placeholder='Upload, drop or paste pictures below and ask about '
        'them,<br>or begin with an example.',
        elem_id='chat',
    )
    notice = gr.HTML(visible=False, elem_id='notice')
    box = gr.MultimodalTextbox(
        interactive=False,  # until the server has made a chat
        sources=['upload'],
        file_types=['image'],
        file_count='multiple',
        placeholder='Ask something …',
        show_label=False,
        label='Question',
        max_lines=6,
        elem_id='box',
    )
    with gr.Row(elem_id='buttons'):
        buttons = {
            title.lower(): gr.Button(title, size='sm', min_width=90)
            for title in ('Regenerate', 'Clear', 'Export')
        }
    cost = gr.HTML(elem_id='cost')
    files = gr.File(
        label='The chat as JSON and as Markdown',
        file_count='multiple',
        visible=False,
        interactive=False,
        elem_id='files',
    )
    return chat, box, dict(notice=notice, cost=cost, files=files), buttons


def _gallery(cards: list[dict[str, Any]]) -> 'gr.Gallery':
    """The examples to choose from."""
    import gradio as gr

    with gr.Accordion('Examples', elem_id='examples'):
        if cards[0].get('nano'):
            gr.HTML(
                'The nano model knows coloured shapes alone, as in the first '
                'four. The others show what MiniGPT-4 with Vicuna is for.',
                elem_classes='hint',
            )
        return gr.Gallery(
            [(card['images'][0], card['title']) for card in cards],
            columns=3,
            height='auto',
            object_fit='cover',
            allow_preview=False,
            interactive=False,
            show_label=False,
            label='Examples',
            buttons=[],
        )


def _controls(defaults: SamplingParams, limits: RequestLimits) -> list:
    """The settings, in the order of :func:`.visit.settings_of`."""
    import gradio as gr

    most_beams = min(limits.beams, MOST_BEAMS)
    ways = [way for way in WAYS if way != 'Beams' or most_beams > 1]
    way_now = 'Greedy' if defaults.num_beams == 1 else ways[-1]
    way_now = 'Sampling' if defaults.do_sample else way_now
    with gr.Accordion('Settings', open=False, elem_id='settings'):
        way = gr.Radio(ways, value=way_now, label='How words are chosen')
        sampling = [
            gr.Slider(
                0.1, 2, defaults.temperature, step=0.05, label='Temperature'
            ),
            gr.Slider(
                0.05,
                1,
                # as the official demo, where the model has none of its own
                defaults.top_p if defaults.top_p < 1 else 0.9,
                step=0.05,
                label='Top-p',
            ),
            gr.Number(
                defaults.seed,
                precision=0,
                label='Seed',
                info='Empty: another answer each time.',
            ),
        ]
        num_beams = gr.Slider(
            1,
            most_beams if most_beams > 1 else 2,
            min(max(defaults.num_beams, 5), max(most_beams, 2)),
            step=1,
            label='Beams',
            info='The answer appears when it is complete.',
        )
        for control in (*sampling, num_beams):
            control.visible = (control in sampling) == (way_now == 'Sampling')
        num_beams.visible = way_now == 'Beams'
        length = gr.Slider(
            1,
            limits.max_tokens,
            min(defaults.max_new_tokens, limits.max_tokens),
            step=1,
            label='Longest answer, in tokens',
        )

        def show(chosen: str) -> list:
            return [gr.update(visible=chosen == 'Sampling')] * 3 + [
                gr.update(visible=chosen == 'Beams')
            ]

        way.change(show, way, [*sampling, num_beams], api_visibility='private')
    return [way, *sampling, num_beams, length]


def _may_enter(api_key: str, name: str, password: str) -> bool:
    return hmac.compare_digest(password.encode(), api_key.encode())


class _Policy:
    """Tells browsers to load nothing from elsewhere for our pages."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def send_with_policy(message) -> None:
            if message['type'] == 'http.response.start':
                message.setdefault('headers', [])
                message['headers'] = [
                    *message['headers'],
                    (b'content-security-policy', _POLICY.encode()),
                    (b'referrer-policy', b'same-origin'),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)
