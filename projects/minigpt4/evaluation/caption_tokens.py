# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tokens of a caption, as COCO's caption scorer counts them.

That scorer runs the PTBTokenizer of Stanford CoreNLP 3.4.1 (Java) with
``-preserveLines -lowerCase`` and removes the tokens of :data:`PUNCTUATION`.
This module finds the same tokens in English text without Java: its rules
were written from what the program does with texts made for that purpose. No
maintained Python library has these rules.
"""

import functools
import html
import re

# What the scorer removes. Brackets remain, as -lrb- and -rrb-: it compares
# lower-case tokens with names in upper case.
PUNCTUATION = frozenset(
    "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()
)

# Abbreviations that keep their period; single letters do too: "plan b."
_ABBREVIATIONS = (
    'adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg '
    'blvd brig bros calif capt cf cie cmdr co col colo comdr conn corp cos '
    'cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft '
    'ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans '
    'ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr '
    'mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty '
    'pres prof pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq '
    'sfc sgt spc sq sr st ste supt sys tel tenn thu thurs tue tues univ va vs '
    'vt wed wis wisc wm wyo'
)
# only with a capital: "ill." ends a sentence, "Ill." is Illinois
_CAPITAL_ABBREVIATIONS = 'Ark Az Del Ill La Mass Miss Ore Pa Tex Wash'
# only before a number: "no."
_NUMBER_ABBREVIATIONS = 'art ca fig figs no nos op pp prop'
# before these words the period of a single letter ends the sentence
_FIRST_WORDS = (
    'A About According After An As At But Earlier He Her Here However If In '
    'It Last Many More Now Once One Other Our She Since So Some Such That The '
    'Their Then There These They This We What When While Yet You'
)
_FILE_SUFFIXES = (
    'bat bmp c class cgi cpp dll docx? exe gif gz html? jar java jpe?g mov '
    'mp3 pdf php pl png ppt ps py sql tar txt wav x xml zip'
)

_NO_BREAK = '\xa0'  # a space inside a token
_REPLACED = str.maketrans(
    {
        **dict.fromkeys('‘’‛‹›', "'"),
        **dict.fromkeys('“”«»', '"'),
        **dict.fromkeys('–—―', ' -- '),
        '…': ' ... ',
        '\xad': '',  # soft hyphen
        _NO_BREAK: ' ',
    }
)
_SIGNS = {
    **{'(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-'},
    **{'{': '-lcb-', '}': '-rcb-'},
    **{'½': '1/2', '¼': '1/4', '¾': '3/4', '⅓': '1/3', '⅔': '2/3'},
    **{'¢': 'cents', '£': '#', '€': '$', '¤': '$', '"': "''"},
}
_ENTITY = re.compile(r'&(?:amp|lt|gt|quot|apos|nbsp|mdash);', re.I)


def _any(words: str, ignore_case: bool = True) -> str:
    return f'(?{"i" * ignore_case}:{"|".join(words.split())})'


# tokens with a space, and "No. 5", whose period depends on the number
_WITH_SPACE = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        r'<[A-Za-z!?][\w:.-]*\s[^<>]*>',
        r'(?<![\w.,:/-])(?:\(\d{3}\) ?\d{3}[ -]|\d{3} \d{3} )\d{4}(?![\w-])',
        r'(?<![\w.,:/-])\d{1,4} \d{1,4}/\d{1,4}(?!\w)',
        rf'(?<!\w){_any(_NUMBER_ABBREVIATIONS)}\. (?=\d)',
    )
]

_SENTENCE_END = re.compile(
    r'(?<!\S)([A-Za-z])\. (?='
    rf'{_any(f"{_FIRST_WORDS} {_FIRST_WORDS.upper()}", ignore_case=False)}'
    '(?: |$))'
)

_MARK = '\u0300-\u036f\u0900-\u0903\u093c\u093e-\u094d'
_OTHER_NUMBER = r'\xb2\xb3\xb9\xbc-\xbe\u2070-\u2089\u2153-\u218b\u2460-\u24ff'
_LETTER = rf'(?:[^\W\d_{_OTHER_NUMBER}]|[{_MARK}])'
_ALNUM = rf'(?:[^\W_{_OTHER_NUMBER}]|[{_MARK}])'
_PATH = r'(?:/[^\s"<>|(){}]{2,}(?<![.,!?-]))?'
_TERM = r'[A-Za-z0-9]+(?:-[A-Za-z]+)*'
# At each position the longest match is used, of equal ones the first. A
# match counts completely, but only the group, if there is one, is the token.
_PATTERNS = [
    re.compile(pattern)
    for pattern in (
        # contractions: it 's, do n't
        rf"({_LETTER}{_ALNUM}*)'(?i:s|d|m|ll|re|ve)(?!{_LETTER})",
        rf"({_LETTER}+)(?i:n['`]t)",
        rf"'(?i:s|d|m|ll|re|ve)(?!{_LETTER})",
        r"(?i:n['`]t)",
        # two words written as one: can not, gon na
        rf'(?i:(can)not|(gon|wan)na|(got)ta|(gim|lem)me)(?!{_ALNUM}|-)',
        r"(?i:('t)(?:is|was))(?![^\W_])",
        # words with an apostrophe
        rf"[A-HJ-XZdlno]'{_LETTER}{{2,}}(?:-{_ALNUM}+)*",
        rf"(?i:([ldjy]'){_LETTER})",
        rf"{_LETTER}+[aeiouyAEIOUY]'[aeiouA-Z]{_LETTER}*",
        r"(?i:'n'|'n$|ol'|'em|'til{1,2}|'cause|dunkin'|somethin'|e'er|c'mon|c'est"
        r"|s'mores|ev'ry|li'l|nat'l|nor'easter|d'ye|cont'd\.?)",
        r"'[2-9]0s(?![\w'])",
        r"'\d\d$",
        # addresses, tags
        r'(?i:https?)://[^\s"<>|(){}]+\.[^\s"<>|(){}]+(?<![.,!?-])',
        rf'(?i:www\.(?:[\w-]+\.)+[a-z]{{2,4}})(?!{_ALNUM}){_PATH}',
        rf'(?:{_LETTER}{_ALNUM}*\.)+(?i:com|net|org|edu)(?!{_ALNUM}){_PATH}',
        r'[A-Za-z0-9][^\s"<>|(){}]*@[^\s"<>|(){}]+(?<!\.)',
        r'@[A-Za-z_][A-Za-z0-9_]*|#[A-Za-z]+',
        rf'</?[A-Za-z!?][A-Za-z0-9_:.-]*(?:{_NO_BREAK}[^<>]*)?[/?]?>',
        # words
        rf'{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+',
        rf'{_ALNUM}+(?:[-_\u2010\u2011]{_ALNUM}+)*',
        rf'({_ALNUM}+(?:-{_ALNUM}+)*\.)[,;:]',
        rf'{_TERM}(?:/{_TERM}){{1,2}}',
        rf'{_ALNUM}(?:{_ALNUM}|[.,])*(?:-{_ALNUM}+)+',
        rf'[A-Za-z0-9]+\.(?i:{"|".join(_FILE_SUFFIXES.split())})'
        r'(?=$|[.,?!])',
        r'[A-Z]+(?:[&+][A-Z]+)+|[A-Z]+\$|[Cc]\+\+|[CcFf]#',
        # abbreviations
        rf'[A-Za-z](?:\.[A-Za-z])*\.|{_any(_ABBREVIATIONS)}\.',
        rf'{_any(_CAPITAL_ABBREVIATIONS, ignore_case=False)}\.',
        rf'{_any(_CAPITAL_ABBREVIATIONS.upper(), ignore_case=False)}\.',
        rf'({_any(_NUMBER_ABBREVIATIONS)}\.){_NO_BREAK}?\d',
        # numbers
        r'[-+]?\d*(?:[.,:]\d+)+|[-+]?\d+',
        r'\d{1,2}/\d{1,2}/\d{2,4}',
        rf'\(\d{{3}}\){_NO_BREAK}?\d{{3}}[{_NO_BREAK}-]\d{{4}}',
        rf'\d[\d-]*(?:{_NO_BREAK}[\d-]*\d)+',
        rf'\d{{1,4}}[{_NO_BREAK}-]\d{{1,4}}/\d{{1,4}}',
        # faces of signs
        r"[<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]](?!\w)",
        r"[-^x=~<>']_[-^x=~<>'](?!\w)|&#\d+;",
        # runs of signs
        r'\.\.\.|[?!]+|-{2,}|_+|#+|\*+|<<|>>',
    )
]
# a sign is a token; all others, such as emoji, are dropped
_SIGN = re.compile(
    r'[!-/:-@\[-`{-~\xa1-\xbf\xd7\xf7\u2016-\u208e\u20a4\u20ac'
    r'\u2100-\u2bff\u3001\u3002\uff01-\uff65]'
)
_PLAIN_WORD = re.compile(r'([a-z]{2,})[.,]?')
# they can be the first part of an abbreviation or a contraction
_NOT_PLAIN = frozenset(
    (_ABBREVIATIONS + ' cannot gonna wanna gotta gimme lemme').split()
)


def tokens(text: str) -> list[str]:
    """Split a caption into tokens: ``A dog's ball.`` gives a, dog, 's, ball.

    Args:
        text: The caption; all white space separates, also line ends.

    Returns:
        Tokens in lower case without :data:`PUNCTUATION`. A few contain a
        no-break space, as those of the scorer: a number with a fraction, a
        phone number, a tag.

    Source: COCO's caption scorer (pycocoevalcap 1.2).
    """
    if not text.isascii():
        text = text.translate(_REPLACED)
    if '&' in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0].lower()), text)
        text = text.translate(_REPLACED)
    text = ' '.join(text.split())
    text = _SENTENCE_END.sub(r'\1 . ', text)
    if _DIGIT_OR_TAG.search(text):
        for pattern in _WITH_SPACE:
            text = pattern.sub(_without_break, text)
    return [
        token for chunk in text.split(' ') for token in _chunk_tokens(chunk)
    ]


_DIGIT_OR_TAG = re.compile('[0-9<]')


def _without_break(found: re.Match[str]) -> str:
    return found[0].replace(' ', _NO_BREAK)


@functools.lru_cache(maxsize=100_000)
def _chunk_tokens(chunk: str) -> tuple[str, ...]:
    """The tokens of a text without spaces, except for no-break spaces."""
    plain = _PLAIN_WORD.fullmatch(chunk)
    if plain and plain[1] not in _NOT_PLAIN:
        return (plain[1],)
    found = []
    start = 0
    while start < len(chunk):
        token = _longest(chunk, start)
        start += len(token) or 1
        if token:
            token = _normalized(token)
            if token not in PUNCTUATION:
                found.append(token)
    return tuple(found)


def _longest(chunk: str, start: int) -> str:
    """The token at a position; '' for a character that is dropped."""
    best, length = '', 0
    for pattern in _PATTERNS:
        match = pattern.match(chunk, start)
        if match and len(match[0]) > length:
            length = len(match[0])
            best = match[match.lastindex or 0]
    if not best and _SIGN.match(chunk, start):
        best = chunk[start]
    return best


def _normalized(token: str) -> str:
    if token in _SIGNS:
        return _SIGNS[token]
    if not token.strip('-') and len(token) in (2, 3, 4):
        return '--'
    # of faces and phone numbers
    token = token.replace('(', '-lrb-').replace(')', '-rrb-')
    return token.lower()
