# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Step ``rules``: drop the texts that a program can see to be bad.

:data:`RULES` lists the rules in the order in which they are applied; the
first that objects drops the text. Which ones are on, and their parameters,
are settings.

A near duplicate is dropped if an image of a lower number has the text, or
the image, and passes the rules on texts. This depends on no other result of
this step, so that the outcome is the same in any order, in any number of
processes, and after any interruption.

Source: paper section 3.2, which names the apologies; the other rules follow
its description of the errors.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..evaluation import text_rules
from ..images.read import read_image
from ..utils.errors import one_line
from ..utils.suggest import suggest
from .added_files import read_added
from .invented_objects import invented_objects
from .ledger import LedgerImage, Result
from .near_duplicates import ImageIndex, TextIndex, image_hash
from .pipeline import StepItem

APOLOGIES = (
    "I'm sorry I made a mistake",  # the paper's
    'I apologize for that',  # the paper's
    "I'm sorry",
    'I am sorry',
    'I apologize',
    'I apologise',
    'my apologies',
    'as an AI',
    'as a language model',
)
MARKERS = (
    '###',
    '<Img>',
    '</Img>',
    '<ImageHere>',
    '[INST]',
    '[/INST]',
    '<<SYS>>',
    '<|',
    '|>',
    '<｜',  # of DeepSeek
    # without ">": also <thinking> and tags with attributes
    '<think',
    '</think',
    '<thought',
    '</thought',
    '<reason',
    '</reason',
    '<answer',
    '</answer',
    'Human:',
    'Assistant:',
)


class RulesSettings(BaseModel):
    """Section ``rules``: which rules are on, and their parameters."""

    model_config = ConfigDict(extra='forbid')

    skip: tuple[str, ...] = Field(
        default=(),
        description='rules that are not applied',
        examples=['length'],
    )
    warn: tuple[str, ...] = Field(
        default=(),
        description='rules that flag a text and do not drop it',
        examples=['length'],
    )
    min_words: int = Field(default=20, ge=0, description='of "length"')
    max_words: int = Field(default=400, ge=1, description='of "length"')
    apologies: tuple[str, ...] = Field(
        default=APOLOGIES, description='phrases of "apology", in any case'
    )
    markers: tuple[str, ...] = Field(
        default=MARKERS,
        description='phrases of "marker", in any case: parts of prompt '
        'templates, tags of reasoning',
    )
    max_odd_characters: float = Field(
        default=0.05, ge=0, le=1, description='of "characters": a share'
    )
    max_repeated: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description='of "repetition": the largest share of sequences of four '
        'words that occurred before in the text',
    )
    max_same_word: int = Field(
        default=4,
        ge=2,
        description='of "repetition": the same word this many times in a row',
    )
    min_sentence_words: int = Field(
        default=3, ge=1, description='of "fragment": fewer are a fragment'
    )
    max_fragments: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description='of "fragment": the largest share of sentences',
    )
    min_english: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description='of "language": where another language is likelier, the '
        'least probability of English',
    )
    max_invented: int | None = Field(
        default=None,
        ge=0,
        description='of "invented_object": the most classes of COCO that the '
        'text names and that the objects and captions of the image lack; '
        'null: the rule is off',
    )
    min_text_similarity: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description='of "near_duplicate_text": the share of common sequences '
        'of three words',
    )
    max_image_distance: int = Field(
        default=4,
        ge=0,
        le=15,
        description='of "near_duplicate_image": the most bits of 64 that '
        'differ',
    )

    @field_validator('skip', 'warn')
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [rule.id for rule in RULES]
        for name in names:
            if name not in known:
                close = suggest(name, known)
                raise ValueError(
                    f'there is no rule {name!r}; '
                    + (
                        f'did you mean {close}?'
                        if close
                        else f'expected some of {", ".join(known)}'
                    )
                )
        return names


class Rule(NamedTuple):
    """A rule.

    Attributes:
        id: Its name in settings, results and reports.
        description: What it drops.
        parameters: The fields of :class:`RulesSettings` that it uses.
        check: From a text and the settings to the reason, or None. None for
            the rules that need more than the text.
        version: Raised when the rule changes; it then runs again.
    """

    id: str
    description: str
    parameters: tuple[str, ...]
    check: Callable[[str, RulesSettings], str | None] | None
    version: int = 1


RULES: tuple[Rule, ...] = (
    Rule(
        'encoding',
        'wrongly decoded characters: repaired where possible, with a flag; '
        'dropped if a character is lost',
        (),
        lambda text, s: text_rules.damaged_characters(text),
    ),
    Rule(
        'length',
        'fewer or more words than allowed',
        ('min_words', 'max_words'),
        lambda text, s: text_rules.length(text, s.min_words, s.max_words),
    ),
    Rule(
        'apology',
        'the model apologises, or writes about itself',
        ('apologies',),
        lambda text, s: text_rules.contains(text, s.apologies, 'apology'),
    ),
    Rule(
        'marker',
        'parts of a prompt template, tags of reasoning',
        ('markers',),
        lambda text, s: text_rules.contains(text, s.markers, 'marker'),
    ),
    Rule(
        'characters',
        'meaningless characters',
        ('max_odd_characters',),
        lambda text, s: text_rules.meaningless_characters(
            text, s.max_odd_characters
        ),
    ),
    Rule(
        'repetition',
        'words or sentences come again and again',
        ('max_repeated', 'max_same_word'),
        lambda text, s: text_rules.repetition(
            text, s.max_repeated, s.max_same_word
        ),
    ),
    Rule(
        'fragment',
        'many sentences of a word or two',
        ('min_sentence_words', 'max_fragments'),
        lambda text, s: text_rules.fragments(
            text, s.min_sentence_words, s.max_fragments
        ),
    ),
    Rule(
        'unfinished',
        'the last sentence has no end',
        (),
        lambda text, s: text_rules.unfinished(text),
    ),
    Rule(
        'language',
        'the text or a sentence is not English',
        ('min_english',),
        lambda text, s: text_rules.other_language(text, s.min_english),
    ),
    Rule(
        'invented_object',
        'objects that the image is known not to have',
        ('max_invented',),
        None,
    ),
    Rule(
        'near_duplicate_text',
        'an image of a lower number has nearly the same text',
        ('min_text_similarity',),
        None,
    ),
    Rule(
        'near_duplicate_image',
        'an image of a lower number is nearly the same',
        ('max_image_distance',),
        None,
    ),
)


class _Checked(NamedTuple):
    """The outcome of the rules on a text."""

    text: str
    rule: str | None
    reason: str
    flags: list[dict[str, str]]


class RulesStep:
    """Apply the rules; see the module.

    Args:
        settings: The section of the settings.
    """

    name = 'rules'

    def __init__(self, settings: RulesSettings) -> None:
        self._settings = settings
        off = {*settings.skip}
        if settings.max_invented is None:
            off.add('invented_object')
        self._on = [rule for rule in RULES if rule.id not in off]
        values = settings.model_dump(mode='json')
        self.settings: dict[str, Any] = {
            rule.id: dict(
                version=rule.version,
                drops=rule.id not in settings.warn,
                **{name: values[name] for name in rule.parameters},
            )
            for rule in self._on
        }
        ids = {rule.id for rule in self._on}
        self._texts = (
            TextIndex(settings.min_text_similarity)
            if 'near_duplicate_text' in ids
            else None
        )
        self._images = (
            ImageIndex(settings.max_image_distance)
            if 'near_duplicate_image' in ids
            else None
        )
        self._checked: dict[int, _Checked] = {}
        self._hashes: dict[int, int] = {}
        self._kept: frozenset[int] = frozenset()

    def prepare(self, items: Iterable[StepItem], kept: Iterable[int]) -> None:
        """Read all texts, for the rules that compare them.

        Args:
            items: All that the step gets, in this run or in others.
            kept: Images that the step has kept in an earlier run. Of two
                near duplicates the one that comes later after a failure is
                dropped if the other was kept.
        """
        self._kept = frozenset(kept)
        if self._texts is None and self._images is None:
            return
        for item in items:
            self._add(item)

    def run(self, items: Iterator[StepItem]) -> Iterator[Result]:
        """Apply the rules; see :class:`~.pipeline.Step`."""
        for item in items:
            yield self._result(item)

    def _add(self, item: StepItem) -> None:
        checked = self._check(item)
        if checked.rule is not None:
            return
        if self._texts is not None:
            self._texts.add(item.image.id, checked.text)
        if self._images is not None:
            try:
                value = self._hash(item.image)
            except (OSError, ValueError):
                return  # it is the failure of its own result
            self._images.add(item.image.id, value)

    def _result(self, item: StepItem) -> Result:
        number = item.image.id
        text, rule, reason, flags = self._check(item)
        try:
            found = [] if rule else [*self._near_duplicates(item, text)]
        except (OSError, ValueError) as error:
            return Result(number, 'failed', one_line(error), {})
        flags = [*flags]
        for other, why in found:
            if other not in self._settings.warn:
                rule, reason = other, why
                break
            flags.append(dict(reason=other, text=why))
        details: dict[str, Any] = dict(flags=flags)
        if rule is not None:
            details |= dict(rule=rule, reason=reason)
        return Result(number, 'dropped' if rule else 'ok', text, details)

    def _check(self, item: StepItem) -> _Checked:
        """Apply the rules on texts, once to each."""
        known = self._checked.get(item.image.id)
        if known is None:
            known = check_text(
                item.text, self._settings, self._on, item.image.details
            )
            self._checked[item.image.id] = known
        return known

    def _hash(self, image: LedgerImage) -> int:
        """The perceptual hash of an image, from the ledger or its file.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not an image, or not the one that was added.
        """
        known = self._hashes.get(image.id)
        if known is None:
            stored = image.details.get('phash')
            known = (
                image_hash(read_image(read_added(image), image.path))
                if stored is None
                else int(stored, 16)
            )
            self._hashes[image.id] = known
        return known

    def _near_duplicates(
        self, item: StepItem, text: str
    ) -> Iterator[tuple[str, str]]:
        """Yield rules and reasons."""
        number = item.image.id

        def counts(rule: str, other: int) -> bool:
            if rule in self._settings.warn:
                return other < number
            return other < number or (other > number and other in self._kept)

        if self._texts is not None:
            same_text = self._texts.find(
                text, functools.partial(counts, 'near_duplicate_text')
            )
            if same_text is not None:
                yield (
                    'near_duplicate_text',
                    f'the text is nearly that of image {same_text[0]} '
                    f'({same_text[1]:.0%} of the word sequences).',
                )
        if self._images is not None:
            same_image = self._images.find(
                self._hash(item.image),
                functools.partial(counts, 'near_duplicate_image'),
            )
            if same_image is not None:
                yield (
                    'near_duplicate_image',
                    f'the image is nearly image {same_image[0]} '
                    f'({same_image[1]} of 64 bits differ).',
                )


def check_text(
    text: str,
    settings: RulesSettings,
    rules: Sequence[Rule] = RULES,
    details: Mapping[str, Any] | None = None,
) -> _Checked:
    """Apply the rules that need no other text.

    Args:
        text: The text.
        settings: Their parameters.
        rules: The rules that are on.
        details: What is known about the image.

    Returns:
        The text with its encoding repaired, the rule that drops it with its
        reason, and flags of rules that only warn.
    """
    flags: list[dict[str, str]] = []
    for rule in rules:
        if rule.id == 'encoding':
            fixed = text_rules.fix_encoding(text)
            if fixed != text:
                sentence = 'wrongly decoded characters were repaired.'
                flags.append(dict(reason='encoding', text=sentence))
                text = fixed
        reason = rule.check and rule.check(text, settings)
        if rule.id == 'invented_object' and details:
            reason = _invented(text, settings.max_invented, details)
        if reason and rule.id not in settings.warn:
            return _Checked(text, rule.id, reason, flags)
        if reason:
            flags.append(dict(reason=rule.id, text=reason))
    return _Checked(text, None, '', flags)


def _invented(
    text: str, most: int | None, details: Mapping[str, Any]
) -> str | None:
    """Return the reason of the rule "invented_object", or None."""
    found = invented_objects(text, details)
    if most is None or len(found) <= most:
        return None
    return (
        f'the text names {", ".join(found)}, which the image is not known to '
        'have.'
    )
