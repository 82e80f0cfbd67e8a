# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The components of the web page and their appearance.

Gradio is imported when a function is called, because it is optional.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...generation.sampling_params import SamplingParams
from ..http.request_limits import RequestLimits
from .controls import MAX_BEAMS, METHODS


@dataclass
class ChatColumn:
    """The column with the chat.

    Attributes:
        chat: The turns.
        notice: The notice above the question box.
        box: The question box.
        buttons: Buttons by name: ``regenerate``, ``clear``, ``export``.
        usage: The tokens of the last turn.
        files: The exported files.
    """

    chat: Any
    notice: Any
    box: Any
    buttons: dict[str, Any]
    usage: Any
    files: Any


def chat_column() -> ChatColumn:
    """Create the chat, the question box and the buttons."""
    import gradio as gr

    return ChatColumn(
        chat=gr.Chatbot(
            height='62vh',
            show_label=False,
            label='Chat',
            buttons=['copy'],
            latex_delimiters=[],
            allow_tags=False,
            placeholder='Upload, drop or paste images below and ask about '
            'them,<br>or start with an example.',
            elem_id='chat',
        ),
        notice=gr.HTML(visible=False, elem_id='notice'),
        box=gr.MultimodalTextbox(
            interactive=False,  # until the server has created a session
            sources=['upload'],
            file_types=['image'],
            file_count='multiple',
            placeholder='Ask a question …',
            show_label=False,
            label='Question',
            max_lines=6,
            elem_id='box',
        ),
        buttons=_buttons(('Regenerate', 'Clear', 'Export')),
        usage=gr.HTML(elem_id='usage'),
        files=gr.File(
            label='The chat as JSON and as Markdown',
            file_count='multiple',
            visible=False,
            interactive=False,
            elem_id='files',
        ),
    )


def _buttons(titles: Sequence[str]) -> dict[str, Any]:
    import gradio as gr

    with gr.Row(elem_id='buttons'):
        return {
            title.lower(): gr.Button(title, size='sm', min_width=90)
            for title in titles
        }


def example_gallery(cards: Sequence[dict[str, Any]], hint: str = '') -> Any:
    """Create the gallery of examples.

    Args:
        cards: The examples.
        hint: What to expect of them; '' is none.
    """
    import gradio as gr

    with gr.Accordion('Examples', elem_id='examples'):
        if hint:
            gr.HTML(hint, elem_classes='hint')
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


def control_inputs(
    defaults: SamplingParams, limits: RequestLimits
) -> list[Any]:
    """Create the controls of the generation settings.

    Args:
        defaults: The settings of the model.
        limits: Limits of a question.

    Returns:
        The controls, in the order of the arguments of
        :func:`.controls.generation_settings`.
    """
    import gradio as gr

    max_beams = min(limits.beams, MAX_BEAMS)
    methods = [m for m in METHODS if m != 'Beam search' or max_beams > 1]
    initial = 'Greedy' if defaults.num_beams == 1 else methods[-1]
    initial = 'Sampling' if defaults.do_sample else initial
    with gr.Accordion('Settings', open=False, elem_id='settings'):
        method = gr.Radio(methods, value=initial, label='Decoding method')
        sampling = [
            gr.Slider(
                0.1,
                2,
                min(max(defaults.temperature, 0.1), 2),
                step=0.05,
                label='Temperature',
            ),
            gr.Slider(
                0.05,
                1,
                # the official demo's, if the model does not set its own
                max(defaults.top_p, 0.05) if defaults.top_p < 1 else 0.9,
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
            max(max_beams, 2),
            min(max(defaults.num_beams, 5), max(max_beams, 2)),
            step=1,
            label='Beams',
            info='The answer appears when it is complete.',
        )
        for control in sampling:
            control.visible = initial == 'Sampling'
        num_beams.visible = initial == 'Beam search'
        max_length = gr.Slider(
            1,
            limits.max_tokens,
            min(defaults.max_new_tokens, limits.max_tokens),
            step=1,
            label='Maximum length in tokens',
        )

        def show_controls(chosen: str) -> list[dict[str, Any]]:
            return [gr.update(visible=chosen == 'Sampling')] * 3 + [
                gr.update(visible=chosen == 'Beam search')
            ]

        method.change(
            show_controls,
            method,
            [*sampling, num_beams],
            api_visibility='private',
        )
    return [method, *sampling, num_beams, max_length]


def theme() -> Any:
    """The theme: neutral colours and the fonts of the user's system."""
    import gradio as gr

    return gr.themes.Soft(
        primary_hue='indigo',
        secondary_hue='indigo',
        neutral_hue='slate',
        radius_size='lg',
        font=['system-ui', 'sans-serif'],
        font_mono=['ui-monospace', 'monospace'],
    )
