# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Render a conversation as segments: texts, image slots, supervised answers.

Training, captioning and evaluation render with :func:`render`, chat and
serving with :func:`render_chat`. A conversation without its last answer is a
prompt for generation. This module knows neither tensors nor models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .frame import IMAGE_HERE, Frame, Strip, Template, strip_text


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        question: Text of the question. Each ``<ImageHere>`` is an image
            slot, with or without the wrapping of the template.
        answer: Text of the answer without end symbol; None for an answer
            that is to be generated.
        answer_ids: Token ids of the answer and its end symbol as the model
            generated them; empty if they are not known. The tokenizer may
            encode the same text as other ids, which would not match the
            cached prefix.
    """

    question: str
    answer: str | None = None
    answer_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Segment:
    """A text or an image slot of a rendered conversation.

    Attributes:
        text: The text; None for an image slot.
        supervised: Whether the loss includes the segment.
        ids: Known token ids, which are used instead of the tokenizer; empty
            for none.
        template_spans: ``(start, end)`` of each span of the text that the
            template wrote; None for the complete text. Only there are
            special tokens (``</s>``) encoded as such; in questions, answers
            and system messages they are plain text.
        context: The template's text before the segment, with which it is
            encoded; ``<ImageHere>`` is an image slot. Empty at the start of
            a prompt. None encodes the segment as a text of its own.
    """

    text: str | None
    supervised: bool = False
    ids: tuple[int, ...] = ()
    template_spans: tuple[tuple[int, int], ...] | None = field(
        default=None, compare=False
    )
    context: str | None = field(default=None, compare=False)


def render(
    turns: Sequence[Turn], template: Template, system: str | None = None
) -> list[Segment]:
    """Render a conversation for training, captioning or evaluation.

    The end symbol of an answer is supervised together with the answer.

    Args:
        turns: The turns; the answer of the last may be None.
        template: The prompt template. Each text segment of a fixed one is
            tokenised separately, as in the official code.
        system: The system message; None for that of the template, '' for
            none. A fixed template has one in chats only.

    Raises:
        ValueError: There is no turn, or a turn before the last has no
            answer.
    """
    if not turns:
        raise ValueError(
            'a conversation without turns was given; expected '
            'at least one question.'
        )
    return _render(turns, template, template.frames(len(turns), system))


def render_chat(
    turns: Sequence[Turn],
    template: Template,
    system: str | None = None,
) -> list[Segment]:
    """Render a chat, with a fixed template as the official demo does.

    Such a chat starts with a system message, which training does not use.
    Each text between images is one segment. An answer is a segment of its
    own, with the token ids that the model generated. The official demo
    tokenises the answer again together with the text around it; this loses
    the ``_`` token of the space before the answer, so that the cached prefix
    would end there.

    Args:
        turns: The turns; the answer of the last is None.
        template: The prompt template.
        system: The system message; None for that of the template, '' for no
            system message.

    Raises:
        ValueError: There is no question to answer, or a turn before the last
            has no answer.

    Source: MiniGPT-4 ``conversation/conversation.py`` @ d94738a.
    """
    if not turns or turns[-1].answer is not None:
        raise ValueError(
            'a chat ends with a question that is to be answered; expected '
            'the answer of its last turn to be None.'
        )
    frames = template.frames(len(turns), system, chat=True)
    return _render(turns, template, frames, known_ids=True)


def _render(
    turns: Sequence[Turn],
    template: Template,
    frames: Sequence[Frame],
    known_ids: bool = False,
) -> list[Segment]:
    """Render turns in the text around them.

    Args:
        turns: The turns.
        template: Their template.
        frames: The text around each turn.
        known_ids: Whether the known ids of answers are used.
    """
    in_context = template.writes_special_tokens
    segments: list[Segment] = []
    context = '' if in_context else None
    for i, (turn, frame) in enumerate(zip(turns, frames, strict=True)):
        segments += _join_pieces(
            [
                *frame.opening,
                *_question_pieces(
                    turn.question, template, frame.strip_question
                ),
                (frame.before_answer, True),
            ],
            context,
        )
        if turn.answer is not None:
            # known ids end with the end symbol of a last answer
            known_ids_fit = known_ids and frame.end == template.end
            ids = turn.answer_ids if known_ids_fit else ()
            segments.append(
                _answer_segment(turn.answer, frame, ids, in_context)
            )
        elif i < len(turns) - 1:
            raise ValueError(
                f'turn {i + 1} of {len(turns)} has no answer; '
                'only the last answer may be omitted.'
            )
        if in_context:
            context = frame.end or IMAGE_HERE
    return segments


def answer_segment(
    answer: str,
    template: Template,
    ids: tuple[int, ...] = (),
    end: bool = True,
) -> Segment:
    """Return an answer with the end symbol of the template, supervised.

    Args:
        answer: The answer.
        template: The prompt template.
        ids: Token ids of both; see :class:`Turn`.
        end: Whether the end symbol follows.
    """
    (frame,) = template.frames(1)
    if not end:
        frame = frame._replace(end='')
    return _answer_segment(answer, frame, ids, template.writes_special_tokens)


def _answer_segment(
    answer: str, frame: Frame, ids: tuple[int, ...], in_context: bool
) -> Segment:
    answer = strip_text(answer, frame.strip_answer)
    before = frame.lead + answer
    text = before + frame.end
    spans = ((0, len(frame.lead)), (len(before), len(text)))
    context = (frame.before_answer or IMAGE_HERE) if in_context else None
    return Segment(text, True, ids, spans, context)


# a text (None for an image slot), and whether the template wrote it
_Piece = tuple[str | None, bool]


def _question_pieces(
    question: str, template: Template, strip: Strip
) -> Iterator[_Piece]:
    """Split a question at its image slots, which are wrapped if necessary."""
    before, _, after = template.image.partition(IMAGE_HERE)
    unwrapped = question.replace(template.image, IMAGE_HERE)
    first, *others = strip_text(unwrapped, strip).split(IMAGE_HERE)
    yield first, False
    for text in others:
        yield before, True
        yield None, True
        yield after, True
        yield text, False


def _join_pieces(
    pieces: Sequence[_Piece], context: str | None
) -> list[Segment]:
    """Join the texts between image slots to one segment each.

    Args:
        pieces: The pieces.
        context: Context of the first segment; None for segments without.
    """
    segments = []
    text = ''
    spans: list[tuple[int, int]] = []
    for piece, is_template in (*pieces, (None, False)):
        if piece is None:
            if text:
                segments.append(
                    Segment(text, template_spans=tuple(spans), context=context)
                )
            segments.append(Segment(None, context=context))
            text, spans = '', []
            context = None if context is None else IMAGE_HERE
        elif piece:
            if is_template:
                spans.append((len(text), len(text) + len(piece)))
            text += piece
    return segments[:-1]


def with_images(question: str, num_images: int, template: Template) -> str:
    """Prepend image slots to a question that has none.

    Args:
        question: The question; returned unchanged if it has an image slot.
        num_images: Number of image slots.
        template: The prompt template, which wraps the slots.
    """
    if num_images and IMAGE_HERE not in question:
        slots = ''.join(template.image for _ in range(num_images))
        separator = ' ' if question and template.image != IMAGE_HERE else ''
        return slots + separator + question
    return question
