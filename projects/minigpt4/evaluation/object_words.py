# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which of COCO's 80 classes does a text name?

The words of a text are made lower case and singular; names of several words
("hot dog", "traffic light") are found before single words, so a hot dog is no
dog. A genitive is no mention: "the driver's seat" shows no driver.
``coco_synonyms.json`` has the words of each class, and names that
contain such a word but are no object of the class ("toilet seat").
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?")
# plurals that no rule gives
_IRREGULAR = {
    'people': 'person',
    'persons': 'person',
    'children': 'child',
    'men': 'man',
    'women': 'woman',
    'feet': 'foot',
    'teeth': 'tooth',
    'geese': 'goose',
    'mice': 'mouse',
    'oxen': 'ox',
    'calves': 'calf',
    'knives': 'knife',
    'wives': 'wife',
    'leaves': 'leaf',
    'loaves': 'loaf',
    'shelves': 'shelf',
    'halves': 'half',
    'scarves': 'scarf',
    'skis': 'ski',
    'taxis': 'taxi',
    'buses': 'bus',
    'gases': 'gas',
    'lenses': 'lens',
    'canvases': 'canvas',
    'shoes': 'shoe',
    'canoes': 'canoe',
    'potatoes': 'potato',
    'tomatoes': 'tomato',
    'heroes': 'hero',
    'movies': 'movie',
    'cookies': 'cookie',
    'pies': 'pie',
    'ties': 'tie',
    'neckties': 'necktie',
    'bowties': 'bowtie',
    'brownies': 'brownie',
    'smoothies': 'smoothie',
    'selfies': 'selfie',
    'hoodies': 'hoodie',
    'doggies': 'doggie',
    'axes': 'axe',
    'tvs': 'tv',
    'calories': 'calorie',
}
# words that end with s and are singular
_SINGULAR = frozenset(
    'this is was has his its as us yes plus thus always perhaps towards '
    'across besides news series species lens canvas gas atlas christmas '
    'tennis scissors shears pants jeans shorts sunglasses '
    'binoculars headphones stairs'.split()
)
_NO_PLURAL_OF_MAN = frozenset('men omen ramen specimen abdomen'.split())


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without numbers and punctuation."""
    return _WORD.findall(text.lower())


def word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each word of a text in lower case."""
    return (match.span() for match in _WORD.finditer(text))


@functools.lru_cache(maxsize=50_000)
def singular(word: str) -> str:
    """Make an English noun singular; other words stay as they are.

    Measured against inflect 7.5 on the 5,346 words of 4,000 captions: equal
    for all names of objects but "bus" and "tennis", which inflect cuts, and
    70 times as fast.

    Args:
        word: A word in lower case.
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith('children'):
        return word[:-3]
    if word.endswith('men') and word not in _NO_PLURAL_OF_MAN:
        return word[:-2] + 'an'
    if not word.endswith('s') or len(word) < 4 or word in _SINGULAR:
        return word
    if word.endswith(('ss', 'us', 'is')):
        return word
    if word.endswith('ies'):
        return word[:-3] + 'y'
    if word.endswith(('ches', 'shes', 'sses', 'xes', 'zzes')):
        return word[:-2]
    return word[:-1]


class ObjectWords:
    """Finds the classes that a text names.

    Args:
        classes: Other names of each class; the class is a name itself.
        not_objects: Names that are no object of any class.
        animals: Classes whose names ``animal_modifiers`` may precede.
        animal_modifiers: Words such as "baby", which before an animal are no
            name of a person.
        singularize: Whether plurals count.
        join: Whether names of several words count; without them "hot dog"
            names a dog. ``not_objects`` are joined anyway.
    """

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        not_objects: Sequence[str] = (),
        animals: Sequence[str] = (),
        animal_modifiers: Sequence[str] = (),
        singularize: bool = True,
        join: bool = True,
    ) -> None:
        self.classes = tuple(classes)
        self.singularize = singularize
        self._names: dict[tuple[str, ...], str | None] = {}
        for name in not_objects:
            self._names[self._normalise(name)] = None
        for class_, names in classes.items():
            for name in (class_, *names):
                normal = self._normalise(name)
                if len(normal) > 1 and not join:
                    continue
                self._names[normal] = class_
                if not join:
                    continue
                for modifier in animal_modifiers if class_ in animals else ():
                    modified = self._normalise(f'{modifier} {name}')
                    self._names[modified] = class_
        self._longest = max(map(len, self._names))
        self._first_words = {name[0] for name in self._names}

    def _normalise(self, text: str) -> tuple[str, ...]:
        words = words_of(text)
        return tuple(map(singular, words) if self.singularize else words)

    def find(self, text: str) -> list[str]:
        """The class of each mention in a text, in their order."""
        return [class_ for class_, _ in self.mentions(text)]

    def mentions(self, text: str) -> Iterator[tuple[str, str]]:
        """Yield class and words of each mention in a text."""
        words = self._normalise(text)
        start = 0
        while start < len(words):
            if words[start] not in self._first_words:
                start += 1
                continue
            for length in range(self._longest, 0, -1):
                name = words[start : start + length]
                if name in self._names:
                    class_ = self._names[name]
                    if class_ is not None:
                        yield class_, ' '.join(name)
                    start += len(name)
                    break
            else:
                start += 1


@functools.cache
def coco_words(
    singularize: bool = True, join: bool = True, negatives: bool = True
) -> ObjectWords:
    """The words of COCO's classes; see ``coco_synonyms.json``.

    Args:
        singularize: Whether plurals count.
        join: Whether names of several words count.
        negatives: Whether names that contain the word of a class and are no
            object of it are known: those of ``not_objects``, and "toilet
            seat".
    """
    path = Path(__file__).with_name('coco_synonyms.json')
    data = json.loads(path.read_text('utf-8'))
    if not negatives:
        data['not_objects'] = ()
        data['classes']['toilet'].remove('toilet seat')
    return ObjectWords(**data, singularize=singularize, join=join)
