# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The prompt template that a tokenizer itself has for chats.

The tokenizer's Jinja template is rendered once for each shape of a
conversation (number of turns, with or without system message), with a
placeholder for each text. What it writes between the placeholders is the text
around questions and answers. Texts and image slots are inserted there
afterwards, so that the template never sees them.

transformers renders the template, in Jinja's sandbox for untrusted templates.
"""

import datetime
import re
from typing import Any, NamedTuple

from ..utils.errors import one_line
from .context_encoder import context_encoder
from .frame import IMAGE_HERE, Frame, Strip, strip_text
from .special_tokens import special_token_pattern

CHAT = 'chat'  # its name in configs and checkpoints

# private-use characters around the number of a message; the text between
# reveals a template that escapes or rewrites messages
_START, _END = '\ue0f8', '\ue0f9'
_PLACEHOLDER = re.compile(f'{_START}(\\d+)&Aa{_END}')
# A template that writes the date gets always the same one, so that the token
# ids of a prompt do not depend on the day. It is the one that the template
# of Llama 3.2 writes where it knows none.
DATE = datetime.datetime(2024, 7, 26)
# replaces the function of transformers that formats the day of today
FIXED_DATE = (
    '{% macro strftime_now(format) %}{{ format'
    + ''.join(
        f' | replace("%{code}", "{DATE.strftime("%" + code)}")'
        for code in 'aAbBdHIjmMpSuwyY'
    )
    + ' }}{% endmacro %}\n'
)
_MAX_OUTLINES = 64  # shapes of conversations that are stored


class _Rendering(NamedTuple):
    """A rendered conversation of placeholders.

    Attributes:
        texts: The texts before, between and behind the placeholders.
        strips: White space that is removed from each message.
    """

    texts: list[str]
    strips: list[Strip]


class _Outline(NamedTuple):
    """The text of the template for one shape of a conversation.

    Attributes:
        frames: The text around each turn. With a system message, the opening
            of the first has two texts, before and behind it.
        strip_system: White space that is removed from the system message.
    """

    frames: tuple[Frame, ...]
    strip_system: Strip


class ChatTemplate:
    """A prompt template that is made from the chat template of a tokenizer.

    Supervised are each answer and its end symbol, the first special token
    behind it. The prompt ends where the template's generation prompt ends,
    with thinking switched off (``enable_thinking=False``).

    A system message is given to the template; without one the template may
    write its own. If it has no system role, the message precedes the first
    question, separated by an empty line.

    Args:
        tokenizer: The LLM's tokenizer; None where no text will be rendered
            (a model on the meta device).

    Attributes:
        name: ``'chat'``.
        image: Text of an image slot with its wrapping.
        end: End symbol of an answer.
        stop: Stop strings: the text that opens a later question where it has
            no special token.
        stop_ids: Ids of the end symbol and of all special tokens that open a
            message, which no answer holds.
        system: System message that the template writes by itself, or ''.
        has_system_role: Whether the template takes a system message.

    Raises:
        ValueError: The tokenizer has no chat template, or one that cannot be
            rendered, that drops, repeats or reorders messages, that changes
            or moves image slots, or that has no generation prompt or no end
            symbol.
    """

    name = CHAT
    image = f'<Img>{IMAGE_HERE}</Img>'
    writes_special_tokens = True

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._outlines: dict[tuple[int, bool], _Outline] = {}
        self.end = self.system = ''
        self.stop: tuple[str, ...] = ()
        self.stop_ids: tuple[int, ...] = ()
        self.has_system_role = True
        if tokenizer is None:
            return
        if getattr(tokenizer, 'chat_template', None) is None:
            raise ValueError(
                f'the tokenizer in {self._folder} has no chat template, from '
                "which prompt_template='chat' is made; give an LLM that was "
                'trained for chats, with its chat_template.jinja, or set '
                'another prompt_template.'
            )
        context_encoder(tokenizer)
        self._check_generation_prompt()
        self._check_image_slots()
        self._outline(2, False)
        self._set_system()
        self._set_stop()

    def frames(
        self, num_turns: int, system: str | None = None, chat: bool = False
    ) -> list[Frame]:
        """Return the text around each turn of a conversation.

        Args:
            num_turns: Number of turns.
            system: System message; None for that of the template, '' for
                none.
            chat: Not used: training and chat have the same prompts.

        Raises:
            ValueError: There is no tokenizer, or the template cannot be
                rendered for this number of turns.
        """
        if system is None or not (system or self.system):
            return list(self._outline(num_turns, False).frames)
        if self.has_system_role:
            outline = self._outline(num_turns, True)
            first = outline.frames[0]
            (before, _), (after, _) = first.opening
            message = strip_text(system, outline.strip_system)
            opening = ((before, True), (message, False), (after, True))
            first = first._replace(opening=opening)
        else:
            outline = self._outline(num_turns, False)
            first = outline.frames[0]
            left, right = first.strip_question
            message = strip_text(system, (left, ''))
            if message:
                first = first._replace(
                    opening=(*first.opening, (message + '\n\n', False)),
                    strip_question=('', right),
                )
        return [first, *outline.frames[1:]]

    @property
    def _folder(self) -> str:
        return getattr(self._tokenizer, 'name_or_path', '') or 'memory'

    def _refused(self, problem: str) -> ValueError:
        return ValueError(
            f'the chat template of the tokenizer in {self._folder} '
            f'{problem}; correct its chat_template.jinja, or set another '
            'prompt_template.'
        )

    def _apply(
        self, roles: list[str], generation: bool, left: str, right: str
    ) -> list[str]:
        """Render placeholders with white space left and right of each.

        Returns:
            The texts before, between and behind the placeholders.
        """
        if self._tokenizer is None:
            raise ValueError(
                "prompt_template='chat' without the tokenizer of an LLM "
                'renders no prompt; build the model with its LLM.'
            )
        messages = [
            dict(role=role, content=f'{left}{_START}{i}&Aa{_END}{right}')
            for i, role in enumerate(roles)
        ]
        try:
            source = self._tokenizer.get_chat_template()
            if 'strftime_now' in source:
                source = FIXED_DATE + source
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=generation,
                enable_thinking=False,
                date_string=f'{DATE:%d %b %Y}',
            )
        except Exception as error:  # a template may raise anything
            raise self._refused(
                f'cannot be rendered for a conversation of {len(roles)} '
                f'messages ({type(error).__name__}: '
                f'{one_line(error).rstrip(".")})'
            ) from error
        texts = _PLACEHOLDER.split(text)
        if texts[1::2] != [str(i) for i in range(len(roles))]:
            raise self._refused(
                'drops, repeats, changes or reorders messages of a '
                f'conversation of {len(roles)} messages'
            )
        return texts[::2]

    def _render(
        self,
        num_turns: int,
        has_system: bool,
        answered: bool,
        generation: bool = False,
    ) -> _Rendering:
        """Render a conversation of placeholders.

        Args:
            num_turns: Number of turns.
            has_system: Whether it has a system message.
            answered: Whether the last question has an answer.
            generation: Whether the generation prompt is added.
        """
        roles = ['system'] * has_system + ['user', 'assistant'] * num_turns
        if not answered:
            roles.pop()
        texts = self._apply(roles, generation, '', '')

        def lost(blank: str, side: int) -> list[bool]:
            """Whether a blank left (0) or right (1) of each is removed."""
            padding = ('', blank) if side else (blank, '')
            padded = self._apply(roles, generation, *padding)
            return [
                len(padded[i + side]) <= len(texts[i + side])
                for i in range(len(roles))
            ]

        left, right = (
            [
                None if space and line else ' ' * space + '\n' * line
                for space, line in zip(
                    lost(' ', side), lost('\n', side), strict=True
                )
            ]
            for side in (0, 1)
        )
        return _Rendering(texts, list(zip(left, right, strict=True)))

    def _outline(self, num_turns: int, has_system: bool) -> _Outline:
        """Return the text around each turn, without the system message."""
        key = num_turns, has_system
        if key not in self._outlines:
            outline = self._build_outline(num_turns, has_system)
            if len(self._outlines) >= _MAX_OUTLINES:
                self._outlines.clear()
            self._outlines[key] = outline
        return self._outlines[key]

    def _build_outline(self, num_turns: int, has_system: bool) -> _Outline:
        prompt = self._render(num_turns, has_system, False, generation=True)
        complete = self._render(num_turns, has_system, True)
        start = int(has_system)  # number of the first question
        generation_prompt = prompt.texts[-1]
        last_end = self._end_symbol(complete.texts[-1])
        frames = []
        opening = [(text, True) for text in prompt.texts[: start + 1]]
        for i in range(start, start + 2 * num_turns, 2):
            is_last = i == start + 2 * (num_turns - 1)
            texts = complete.texts if is_last else prompt.texts
            before, lead = _split_lead(texts[i + 1], generation_prompt)
            if is_last and not before.startswith(generation_prompt):
                before = generation_prompt
            end = last_end if texts[i + 2].startswith(last_end) else ''
            frames.append(
                Frame(
                    tuple(opening),
                    before,
                    lead,
                    end,
                    prompt.strips[i],
                    (complete if is_last else prompt).strips[i + 1],
                )
            )
            opening = [(texts[i + 2][len(end) :], True)]
        return _Outline(
            tuple(frames), prompt.strips[0] if has_system else ('', '')
        )

    def _end_symbol(self, text: str) -> str:
        """Return the text behind an answer up to its first special token."""
        found = special_token_pattern(self._tokenizer).search(text)
        if found is None:
            raise self._refused(
                f'writes {text!r} behind an answer, which has no special '
                'token, so that an answer would have no end'
            )
        return text[: found.end()]

    def _check_generation_prompt(self) -> None:
        """Refuse a template that does not tell the LLM to answer."""
        plain = self._render(1, False, False).texts[-1]
        prompt = self._render(1, False, False, generation=True).texts[-1]
        before_answer = self._render(1, False, True).texts[-2]
        lead = before_answer.removeprefix(prompt)
        if plain == prompt and (lead.strip() or not prompt.strip()):
            raise self._refused(
                'has no generation prompt: with add_generation_prompt=True '
                f'it writes {prompt!r} behind a question, but '
                f'{before_answer!r} before an answer'
            )

    def _check_image_slots(self) -> None:
        """Refuse a template that changes or moves the text of a slot."""
        before, after = self._apply(['user'], True, '', '')
        left, right = f'{self.image} ', f' {self.image} end'
        texts = self._apply(['user'], True, left, right)
        if texts != [before + left, right + after]:
            raise self._refused(
                f'changes, drops or moves {self.image}, the text of an image '
                'slot, in a question'
            )

    def _set_system(self) -> None:
        """Find whether there is a system role, and its default message."""
        try:
            self._outline(2, True)
        except ValueError:
            self.has_system_role = False
            return
        before, after = (
            text for text, _ in self._outline(1, True).frames[0].opening
        )
        ((without, _),) = self._outline(1, False).frames[0].opening
        if without.startswith(before) and without.endswith(after):
            self.system = without[len(before) : len(without) - len(after)]

    def _set_stop(self) -> None:
        """Find the end symbol and what else ends an answer."""
        later = self._outline(2, False).frames[1]
        self.end = later.end
        opening = later.opening[0][0]
        find = special_token_pattern(self._tokenizer).findall
        if opening.strip() and not find(opening):
            self.stop = (opening.strip(),)
        written = find(self.end)[-1:] + find(opening + later.before_answer)
        self.stop_ids = tuple(
            dict.fromkeys(map(self._tokenizer.convert_tokens_to_ids, written))
        )


def _split_lead(text: str, generation_prompt: str) -> tuple[str, str]:
    """Split the text between a question and its answer.

    Returns:
        The prompt, and the white space behind it that the LLM generates. Of
        a text that is not the generation prompt or that continues it (an
        empty think block), all belongs to the prompt.
    """
    if text.startswith(generation_prompt):
        lead = text[len(generation_prompt) :]
        if not lead.strip():
            return generation_prompt, lead
    return text, ''
