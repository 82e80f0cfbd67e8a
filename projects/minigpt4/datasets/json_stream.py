# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read JSON and JSON lines record by record, with little memory.

The elements of the lists in a file are decoded one by one. Python's decoder
and not ijson: it gives the values of :mod:`.json_values` (NaN, duplicate
keys, huge integers), which ijson refuses or hides.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from .json_values import DECODER, InvalidJson, describe_error, parse_line
from .record_files import LINES_SUFFIXES, RECORD_KEYS
from .text_stream import DAMAGED, open_text, plain_suffix

MAX_VALUE_CHARACTERS = 1 << 26
_CHUNK_CHARACTERS = 1 << 20
# an error nearer than this to the end of the text may be a cut value
_LONGEST_TOKEN = 32
_MAX_FIRST_LINE = 1 << 23
_PLACE = re.compile('^line [0-9]+, column [0-9]+: ')
_SPACE = re.compile(r'[ \t\r\n]*')


class Entry(NamedTuple):
    """A value in a file.

    Attributes:
        key: The key in the object that the file contains; None in a file
            that contains a list or lines.
        value: The value, or the element of the list under the key; an
            :class:`~minigpt4.datasets.json_values.InvalidJson` for a line
            that is no JSON, and for a file that is damaged from here on.
        number: Number of the line, or of the element in its list, from 1.
        is_line: Whether the file has a value on each line.
        in_list: Whether the value is an element of a list.
    """

    key: str | None
    value: Any
    number: int
    is_line: bool = False
    in_list: bool = True


class DamagedFile(InvalidJson):
    """Damage after which the rest of a file is not read."""


def stream_json(path: Path) -> Iterator[Entry]:
    """Yield the values of a JSON file; its content decides on the layout.

    A list gives its elements. An object gives its values, and of a value
    that is a list the elements. JSON lines give a value for each line.

    Args:
        path: The file, also compressed with gzip.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a regular file or no text.
    """
    with open_text(path) as file:
        text = _Text(file)
        number = 0
        try:
            if _has_lines(text, plain_suffix(path)):
                yield from _lines(text, file)
                return
            for entry in _values(text):
                number = entry.number
                yield entry
        except json.JSONDecodeError as error:
            # lines are counted from the last value, not from the start
            reason = _PLACE.sub('', describe_error(error, text.text))
            if text.ended and error.msg.startswith('Unterminated'):
                reason += '; the file ends too early, download it again'
            yield _damage(
                f'is no JSON after {number:,} values ({reason})', number
            )
        except RecursionError:
            yield _damage('has a value that is nested too deeply', number)
        except DAMAGED as error:
            yield _damage(
                f'cannot be decompressed or read after {number:,} values '
                f'({error}); download it again',
                number,
            )


def _damage(reason: str, number: int) -> Entry:
    return Entry(
        None, DamagedFile(f'{reason}; the rest is not read'), number + 1
    )


class _Text:
    """The text of a file from the next character on.

    Attributes:
        text: The text that was read.
        start: Index of the next character.
        ended: Whether the file was read to its end.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.text, self.start, self.ended = '', 0, False

    def read_more(self) -> None:
        rest = self.text[self.start :]
        more = self._file.read(max(_CHUNK_CHARACTERS, len(rest)))
        self.text, self.start, self.ended = rest + more, 0, not more

    def next_character(self) -> str:
        """Skip white space; returns the next character, '' at the end."""
        while True:
            found = _SPACE.match(self.text, self.start)
            self.start = found.end() if found else self.start
            if self.start < len(self.text) or self.ended:
                return self.text[self.start : self.start + 1]
            self.read_more()

    def expect(self, characters: str) -> str:
        """Read one of the characters.

        Raises:
            json.JSONDecodeError: Another character follows.
        """
        found = self.next_character()
        if not found or found not in characters:
            raise json.JSONDecodeError(
                f'Expecting {" or ".join(map(repr, characters))}',
                self.text,
                self.start,
            )
        self.start += 1
        return found

    def value(self) -> Any:
        """Decode a value.

        Raises:
            json.JSONDecodeError: It is no JSON, is cut, or is too long.
            RecursionError: It is nested too deeply.
        """
        self.next_character()
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.start)
            except json.JSONDecodeError as error:
                if self.ended or (
                    error.pos < len(self.text) - _LONGEST_TOKEN
                    and not error.msg.startswith('Unterminated')
                ):
                    raise
                if len(self.text) - self.start > MAX_VALUE_CHARACTERS:
                    raise json.JSONDecodeError(
                        f'Longer than {MAX_VALUE_CHARACTERS:,} characters',
                        self.text,
                        self.start,
                    ) from error
            else:
                # a number at the end of the text may continue
                if end < len(self.text) or self.ended:
                    self.start = end
                    return value
            self.read_more()


def _has_lines(text: _Text, suffix: str) -> bool:
    """Whether a file has a value on each line, or values without commas."""
    if text.next_character() != '{':
        return suffix in LINES_SUFFIXES and text.next_character() != '['
    while (
        '\n' not in text.text[text.start :]
        and len(text.text) - text.start < _MAX_FIRST_LINE
        and not text.ended
    ):
        text.read_more()
    try:
        value, end = DECODER.raw_decode(text.text, text.start)
    except (json.JSONDecodeError, RecursionError):
        # a first line that is damaged, or longer than the text
        line, _, after = text.text[text.start :].partition('\n')
        if suffix in LINES_SUFFIXES:
            return True
        return bool(after) and isinstance(
            parse_line(after.partition('\n')[0]), dict
        )
    rest = text.text[end:].lstrip(' \t\r\n')
    if rest.startswith('{') or suffix in LINES_SUFFIXES:
        return True
    return not rest and any(key in value for key in RECORD_KEYS)


def _lines(text: _Text, file: TextIO) -> Iterator[Entry]:
    """Yield the values of lines, or of objects over several lines."""
    first = text.text[text.start :].partition('\n')[0]
    if isinstance(parse_line(first), InvalidJson) and first.strip() == '{':
        number = 0
        while text.next_character():
            number += 1
            yield Entry(None, text.value(), number, True)
        return
    number = text.text[: text.start].count('\n')
    rest = text.text[text.start :]
    while True:
        lines = rest.split('\n')
        rest = lines.pop()
        for line in lines:
            number += 1
            if line and not line.isspace():
                yield Entry(None, parse_line(line), number, True)
        more = file.read(max(_CHUNK_CHARACTERS, len(rest)))
        if not more:
            break
        rest += more
        if len(rest) > MAX_VALUE_CHARACTERS and '\n' not in rest:
            while more and '\n' not in more:
                more = file.read(_CHUNK_CHARACTERS)
            rest = more.partition('\n')[2]
            number += 1
            reason = f'is longer than {MAX_VALUE_CHARACTERS:,} characters'
            yield Entry(None, InvalidJson(reason), number, True)
    if rest and not rest.isspace():
        yield Entry(None, parse_line(rest), number + 1, True)


def _values(text: _Text) -> Iterator[Entry]:
    """Yield the values of a list or an object."""
    if text.next_character() == '[':
        for number, value in _elements(text):
            yield Entry(None, value, number)
    else:
        text.expect('{')
        number = 0
        if text.next_character() == '}':
            text.start += 1
        else:
            while True:
                if text.next_character() != '"':
                    text.expect('"')
                key = text.value()
                text.expect(':')
                number += 1
                if text.next_character() == '[':
                    for element, value in _elements(text):
                        yield Entry(key, value, element)
                else:
                    yield Entry(key, text.value(), number, in_list=False)
                if text.expect(',}') == '}':
                    break
    if text.next_character():
        raise json.JSONDecodeError('Extra data', text.text, text.start)


def _elements(text: _Text) -> Iterator[tuple[int, Any]]:
    """Yield the numbered elements of a list."""
    text.expect('[')
    if text.next_character() == ']':
        text.start += 1
        return
    number = 0
    while True:
        number += 1
        yield number, text.value()
        if text.expect(',]') == ']':
            return
        if text.next_character() == ']':
            # describe_error adds that there is a comma
            raise json.JSONDecodeError(
                'Expecting value', text.text, text.start
            )
