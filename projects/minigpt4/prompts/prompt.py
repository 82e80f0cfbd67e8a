# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prompts: from a conversation to text, image slots and what is supervised.

Training, captioning, chat, evaluation and serving all render through
:func:`render`; completion is the same call without the last answer. Nothing
here knows of tensors or of a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..deprecated import renamed
from .encoding import encode

IMAGE_HERE = '<ImageHere>'  # in a question: where an image stands
IMAGE_SLOT = -1  # in token ids: one image, whatever number of tokens it takes


@dataclass(frozen=True)
class PromptTemplate:
    """How one family of LLMs writes a conversation.

    Attributes:
        name: Its name in configs and checkpoints.
        first: Text before the first question.
        later: Text before a later question (after an end symbol).
        answer: Text between question and answer.
        end: End symbol, written and learned after every answer.
        stop: Texts that end an answer while generating.
        image: How an image is wrapped; holds ``<ImageHere>`` once.
        system: What opens a chat (never used in training).
        chat_answer: Text between question and answer in a chat, where it
            differs from ``answer``.
    """

    name: str
    first: str
    later: str
    answer: str
    end: str
    stop: tuple[str, ...]
    image: str = f'<Img>{IMAGE_HERE}</Img>'
    system: str = ''
    chat_answer: str | None = None


_SYSTEM = (
    'Give the following image: <Img>ImageContent</Img>. You will be '
    'able to see the image once I provide it to you. Please answer my '
    'questions.'
)

TEMPLATES = {
    template.name: template
    for template in (
        # stage 1: no prompt at all (official configs have an empty
        # prompt_path), the caption ends with a newline
        PromptTemplate(
            'bare', '', '', '', end='\n', stop=('\n',), image=IMAGE_HERE
        ),
        PromptTemplate(
            'vicuna_v0',
            '###Human: ',
            'Human: ',
            ' ###Assistant: ',
            end='###',
            stop=('###',),
            system=_SYSTEM + '###',
            # no blank before it, unlike stage 2: official conversation.py
            chat_answer='###Assistant: ',
        ),
        PromptTemplate(
            'llama2',
            '[INST] ',
            '<s>[INST] ',
            ' [/INST] ',
            end='</s>',
            stop=('</s>', '[INST]'),
            system=_SYSTEM,
        ),
    )
}


def get_template(name: 'str | PromptTemplate') -> PromptTemplate:
    """The template of a name.

    Raises:
        ValueError: There is no such template.
    """
    if isinstance(name, PromptTemplate):
        return name
    if name not in TEMPLATES:
        raise ValueError(
            f'unknown prompt template {name!r}; expected one of '
            f'{", ".join(TEMPLATES)}.'
        )
    return TEMPLATES[name]


@dataclass(frozen=True)
class Turn:
    """A question and its answer; None where the answer is to be generated.

    ``<ImageHere>`` in the question stands for an image, already wrapped or
    not.

    Attributes:
        question: What is asked.
        answer: What was answered, without end symbol.
        spelling: The token ids that the model wrote the answer and its end
            with, where they are known: a tokenizer may spell the same text
            otherwise, and its keys and values could not be used again.
    """

    question: str
    answer: str | None = None
    spelling: tuple[int, ...] = ()


@dataclass(frozen=True)
class Segment:
    """A piece of a rendered conversation.

    Attributes:
        text: Its text, or None for an image slot.
        supervised: Whether the loss is taken on it.
        ids: Its token ids where the tokenizer is not to be asked.
        template_spans: ``(start, end)`` of each part of the text that the
            template wrote; None is all of it. There alone control symbols
            (``</s>``) are control tokens; in questions, answers and system
            lines they are letters.
    """

    text: str | None
    supervised: bool = False
    ids: tuple[int, ...] = ()
    template_spans: tuple[tuple[int, int], ...] | None = field(
        default=None, compare=False
    )


def render(turns: Sequence[Turn], template: PromptTemplate) -> list[Segment]:
    """Render a conversation into segments, as the LLM is to see it.

    Each text segment is tokenised by itself, as the official code does. The
    end symbol of an answer is supervised with it.

    Raises:
        ValueError: An answer is missing before the last turn, or there is no
            turn.
    """
    if not turns:
        raise ValueError(
            'a conversation without turns was given; expected '
            'at least one question.'
        )
    segments: list[Segment] = []
    for i, turn in enumerate(turns):
        opening = template.first if i == 0 else template.later
        segments += _segments(
            [
                (opening, True),
                *_question(turn.question, template),
                (template.answer, True),
            ]
        )
        if turn.answer is not None:
            segments.append(answer_segment(turn.answer, template))
        elif i < len(turns) - 1:
            raise _unanswered(i, turns)
    return segments


def render_chat(
    turns: Sequence[Turn],
    template: PromptTemplate,
    system: str | None = None,
) -> list[Segment]:
    """Render a chat as the official demo writes it.

    A system line opens it, which training never saw. Each text between
    images is one segment. An answer is a segment of its own, as in training
    and as the model wrote it: the official demo tokenises it again together
    with the text around it, which loses the ``_`` token of the blank before
    the answer, and with it all keys and values from there on.

    With a system line LLaMA-2's first question begins with ``<s>`` like its
    later ones, as in the official demo; :func:`tokenize` puts the other one
    in front of the system line.

    Args:
        turns: The turns; the answer of the last is None.
        template: How the LLM writes.
        system: The system line; None is the template's, '' leaves it out.

    Raises:
        ValueError: An answer is missing or there is no question to answer.

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
    segments: list[Segment] = []
    for i, turn in enumerate(turns):
        answer = (
            template.answer
            if template.chat_answer is None
            else template.chat_answer
        )
        opened = i > 0 or bool(system)
        segments += _segments(
            [
                ('' if i else system, False),
                (template.later if opened else template.first, True),
                *_question(turn.question, template),
                (answer, True),
            ]
        )
        if turn.answer is not None:
            segments.append(
                answer_segment(turn.answer, template, turn.spelling)
            )
        elif i < len(turns) - 1:
            raise _unanswered(i, turns)
    return segments


def answer_segment(
    answer: str, template: PromptTemplate, spelling: tuple[int, ...] = ()
) -> Segment:
    """An answer with the template's end symbol, supervised.

    Args:
        answer: The answer.
        template: The template.
        spelling: See :class:`Turn`.
    """
    text = answer + template.end
    return Segment(text, True, spelling, ((len(answer), len(text)),))


_Piece = tuple[str | None, bool]  # text (None: an image), by the template?


def _question(question: str, template: PromptTemplate) -> Iterator[_Piece]:
    """The pieces of a question; each ``<ImageHere>`` is wrapped.

    Those that are wrapped already are left as they are.
    """
    before, _, after = template.image.partition(IMAGE_HERE)
    bare = question.replace(template.image, IMAGE_HERE)
    first, *others = bare.split(IMAGE_HERE)
    yield first, False
    for text in others:
        yield before, True
        yield None, True
        yield after, True
        yield text, False


def _segments(pieces: Sequence[_Piece]) -> list[Segment]:
    """Join the pieces between images to one segment each."""
    segments = []
    text = ''
    spans: list[tuple[int, int]] = []
    for piece, by_template in (*pieces, (None, False)):
        if piece is None:
            if text:
                segments.append(Segment(text, template_spans=tuple(spans)))
            segments.append(Segment(None))
            text, spans = '', []
        elif piece:
            if by_template:
                spans.append((len(text), len(text) + len(piece)))
            text += piece
    return segments[:-1]


def _unanswered(i: int, turns: Sequence[Turn]) -> ValueError:
    return ValueError(
        f'turn {i + 1} of {len(turns)} has no answer; '
        'only the last answer may be left out.'
    )


def with_images(
    question: str, num_images: int, template: PromptTemplate
) -> str:
    """Put images in front of a question that names no place for them."""
    if num_images and IMAGE_HERE not in question:
        images = ''.join(template.image for _ in range(num_images))
        separator = ' ' if question and template.image != IMAGE_HERE else ''
        return images + separator + question
    return question


@dataclass
class TokenizedPrompt:
    """A tokenised conversation.

    Attributes:
        ids: Token ids; ``IMAGE_SLOT`` stands for one whole image.
        supervised: For each id, whether the loss is taken on it.
        truncated: Answers that were cut, which lost their end symbol.
    """

    ids: list[int] = field(default_factory=list)
    supervised: list[bool] = field(default_factory=list)
    truncated: int = 0

    @property
    def num_images(self) -> int:
        """Image slots of the row."""
        return self.ids.count(IMAGE_SLOT)


def tokenize(
    segments: Sequence[Segment], tokenizer, max_text_length: int | None = None
) -> TokenizedPrompt:
    """Tokenise segments into a row that begins with BOS.

    Args:
        segments: What :func:`render` returned.
        tokenizer: A Hugging Face tokenizer.
        max_text_length: The most tokens of one answer, its end symbol
            included; what is beyond is cut, the end symbol first, as in the
            official code. None cuts nothing.

    Raises:
        ValueError: A text holds a lone surrogate.

    Source: MiniGPT-4 ``models/minigpt_base.py`` @ d94738a, where BOS stands
    once before all and each segment is tokenised without special tokens.
    """
    row = TokenizedPrompt()
    if tokenizer.bos_token_id is not None:
        row.ids.append(tokenizer.bos_token_id)
        row.supervised.append(False)
    for segment in segments:
        if segment.text is None:
            ids = [IMAGE_SLOT]
        elif segment.ids:
            ids = list(segment.ids)
        else:
            spans = segment.template_spans
            if spans is None:
                spans = ((0, len(segment.text)),)
            ids = encode(tokenizer, segment.text, spans)
        if (
            segment.supervised
            and max_text_length
            and (len(ids) > max_text_length)
        ):
            ids = ids[:max_text_length]
            row.truncated += 1
        row.ids += ids
        row.supervised += [segment.supervised] * len(ids)
    return row


__getattr__ = renamed(__name__, {'Row': 'TokenizedPrompt'})
