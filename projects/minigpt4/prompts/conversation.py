# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Render a conversation as segments: texts, image slots, supervised answers.

Training, captioning and evaluation render with :func:`render`, chat and
serving with :func:`render_chat`. A conversation without its last answer is a
prompt for generation. This module knows neither tensors nor models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .templates import IMAGE_HERE, PromptTemplate


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
    """

    text: str | None
    supervised: bool = False
    ids: tuple[int, ...] = ()
    template_spans: tuple[tuple[int, int], ...] | None = field(
        default=None, compare=False
    )


def render(turns: Sequence[Turn], template: PromptTemplate) -> list[Segment]:
    """Render a conversation for training, captioning or evaluation.

    Each text segment is tokenised separately, as in the official code. The
    end symbol of an answer is supervised together with the answer.

    Raises:
        ValueError: There is no turn, or a turn before the last has no
            answer.
    """
    if not turns:
        raise ValueError(
            'a conversation without turns was given; expected '
            'at least one question.'
        )
    segments: list[Segment] = []
    for i, turn in enumerate(turns):
        opening = template.first if i == 0 else template.later
        segments += _join_pieces(
            [
                (opening, True),
                *_question_pieces(turn.question, template),
                (template.answer, True),
            ]
        )
        if turn.answer is not None:
            segments.append(answer_segment(turn.answer, template))
        elif i < len(turns) - 1:
            raise _missing_answer(i, turns)
    return segments


def render_chat(
    turns: Sequence[Turn],
    template: PromptTemplate,
    system: str | None = None,
) -> list[Segment]:
    """Render a chat as the official demo does.

    It starts with a system message, which training does not use. Each text
    between images is one segment. An answer is a segment of its own, with
    the token ids that the model generated. The official demo tokenises the
    answer again together with the text around it; this loses the ``_`` token
    of the space before the answer, so that the cached prefix would end there.

    With a system message the first question of LLaMA-2 begins with ``<s>``
    like its later ones, as in the official demo; :func:`tokenize` adds the
    other one before the system message.

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
    if system is None:
        system = template.system
    elif template.system.endswith(template.end):
        system = system and system.removesuffix(template.end) + template.end
    before_answer = (
        template.answer
        if template.chat_answer is None
        else template.chat_answer
    )
    segments: list[Segment] = []
    for i, turn in enumerate(turns):
        is_later = i > 0 or bool(system)
        segments += _join_pieces(
            [
                ('' if i else system, False),
                (template.later if is_later else template.first, True),
                *_question_pieces(turn.question, template),
                (before_answer, True),
            ]
        )
        if turn.answer is not None:
            segments.append(
                answer_segment(turn.answer, template, turn.answer_ids)
            )
        elif i < len(turns) - 1:
            raise _missing_answer(i, turns)
    return segments


def answer_segment(
    answer: str, template: PromptTemplate, ids: tuple[int, ...] = ()
) -> Segment:
    """Return an answer with the end symbol of the template, supervised.

    Args:
        answer: The answer.
        template: The prompt template.
        ids: Token ids of both; see :class:`Turn`.
    """
    text = answer + template.end
    return Segment(text, True, ids, ((len(answer), len(text)),))


# a text (None for an image slot), and whether the template wrote it
_Piece = tuple[str | None, bool]


def _question_pieces(
    question: str, template: PromptTemplate
) -> Iterator[_Piece]:
    """Split a question at its image slots, which are wrapped if necessary."""
    before, _, after = template.image.partition(IMAGE_HERE)
    unwrapped = question.replace(template.image, IMAGE_HERE)
    first, *others = unwrapped.split(IMAGE_HERE)
    yield first, False
    for text in others:
        yield before, True
        yield None, True
        yield after, True
        yield text, False


def _join_pieces(pieces: Sequence[_Piece]) -> list[Segment]:
    """Join the texts between image slots to one segment each."""
    segments = []
    text = ''
    spans: list[tuple[int, int]] = []
    for piece, is_template in (*pieces, (None, False)):
        if piece is None:
            if text:
                segments.append(Segment(text, template_spans=tuple(spans)))
            segments.append(Segment(None))
            text, spans = '', []
        elif piece:
            if is_template:
                spans.append((len(text), len(text) + len(piece)))
            text += piece
    return segments[:-1]


def _missing_answer(i: int, turns: Sequence[Turn]) -> ValueError:
    return ValueError(
        f'turn {i + 1} of {len(turns)} has no answer; '
        'only the last answer may be omitted.'
    )


def with_images(
    question: str, num_images: int, template: PromptTemplate
) -> str:
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
