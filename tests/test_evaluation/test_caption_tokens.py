# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tokens of captions are those of COCO's caption scorer.

The expected tokens are the output of pycocoevalcap 1.2 (its PTBTokenizer,
Stanford CoreNLP 3.4.1, on OpenJDK 17.0.15) for these texts, 2026-11-29:
``PTBTokenizer().tokenize({0: [{'caption': text}]})``.
"""

import hashlib
import json

import pytest

from minigpt4.evaluation.caption_tokens import tokens

CASES = [
    (
        'A man riding a wave, on top of a surfboard.',
        'a man riding a wave on top of a surfboard',
    ),
    (
        'A (red) [big] {odd} thing',
        'a -lrb- red -rrb- -lsb- big -rsb- -lcb- odd -rcb- thing',
    ),
    ('two--three - four: five; six...', 'two three four five six'),
    (
        "\"quoted\" 'quoted' “curly” ‘curly’ ``x''",
        'quoted quoted curly curly x',
    ),
    ("don't can't won't it's they're", "do n't ca n't wo n't it 's they 're"),
    ("I'd we'll I'm should've isn’t", "i 'd we 'll i 'm should 've is n't"),
    (
        "He cannot wait, gonna go, wanna eat, gotta run, gimme, lemme, 'tis",
        "he can not wait gon na go wan na eat got ta run gim me lem me 't is",
    ),
    (
        "the dogs' bowl, the dog's bowl, James's cat",
        "the dogs bowl the dog 's bowl james 's cat",
    ),
    ("the 1970's, the '70s, a '57 car", "the 1970 's the '70s a '57 car"),
    ("O'Brien at 5 o'clock, ma'am", "o'brien at 5 o'clock ma'am"),
    (
        "rock 'n' roll, d'Artagnan, Hawai'i, y'all",
        "rock 'n' roll d'artagnan hawai'i y' all",
    ),
    (
        'black-and-white t-shirt co-op 10-year-old 3-way well- -known',
        'black-and-white t-shirt co-op 10-year-old 3-way well known',
    ),
    (
        'he/she and/or w/o red/white/blue 24/7 12/25/2010',
        'he/she and/or w/o red/white/blue 24/7 12/25/2010',
    ),
    (
        'Mr. Smith vs. Dr. Jones of the U.S. at 10 a.m. on Main St.',
        'mr. smith vs. dr. jones of the u.s. at 10 a.m. on main st.',
    ),
    (
        'Plan b. is plan B. The end of no. and No. 5, ill. and Ill. fig. 3',
        'plan b. is plan b the end of no and no. 5 ill and ill. fig. 3',
    ),
    ('1,000 people at 10:30pm, 3.14', '1,000 people at 10:30 pm 3.14'),
    (
        '.5, -5 and +5, 4.5in 6ft 2nd 1.5-inch',
        '.5 -5 and +5 4.5 in 6ft 2nd 1.5-inch',
    ),
    (
        '1 1/2 cups 2-1/2 feet ½ cup 2½ cups',
        '1\xa01/2 cups 2-1/2 feet 1/2 cup 2 1/2 cups',
    ),
    ("5'10\" 8'x10' 6 ft. tall 5 lbs.", '5 10 8 x10 6 ft. tall 5 lbs'),
    (
        'It costs $5.50, £3, €4, 5¢, US$2, 50% off #1 #sale @user',
        'it costs $ 5.50 # 3 $ 4 5 cents us$ 2 50 % off # 1 #sale @user',
    ),
    (
        'mail me@x.com or see www.example.com, http://x.com/a?b=c. x.org',
        'mail me@x.com or see www.example.com http://x.com/a?b=c x.org',
    ),
    (
        '<b>bold</b> <unk> <a href="x"> 1 < 2 > 1 << a',
        '<b> bold </b> <unk> <a\xa0href="x"> 1 < 2 > 1 << a',
    ),
    (
        'AT&T and B&W, bread & butter, a&b, &amp; C++ c#',
        'at&t and b&w bread & butter a & b & c++ c#',
    ),
    (
        'the dog.the cat stopped.Then they,and cat,dog a.b.c',
        'the dog.the cat stopped.then they and cat dog a.b.c',
    ),
    ('what?! Wow!!! Really?? hm.. ok!', 'what ?! wow !!! really ?? hm ok'),
    (
        'café naïve Ærøskøbing 日本語 привет crêpes',
        'café naïve ærøskøbing 日本語 привет crêpes',
    ),
    ('emoji 😀 and ❤ ok ™ © ° × • done', 'emoji and ❤ ok ™ © ° × • done'),
    (':) :-( ;D =P ^_^ :/ <3', ':-rrb- :--lrb- ;d =p ^_^ / < 3'),
    (
        'a*b c_d _e_ f+g h=i j|k l~m n\\o ** ## #',
        'a * b c_d _ e _ f + g h = i j | k l ~ m n \\ o ** ## #',
    ),
    (
        'photo.jpg img_1.jpg 2.png main.py 5.x',
        'photo.jpg img_1 jpg 2.png main.py 5.x',
    ),
    (
        'Call 555-1234 or (555) 555-1234 or 555 123 4567.',
        'call 555-1234 or -lrb-555-rrb-\xa0555-1234 or 555\xa0123\xa04567',
    ),
    ('end.; a dog., cat.: etc., one', 'end. a dog. cat. etc. one'),
    (
        'a soft\xadhyphen, a non‑breaking‐hyphen, em—dash, en–dash, wait…',
        'a softhyphen a non‑breaking‐hyphen em dash en dash wait',
    ),
]


@pytest.mark.parametrize(('text', 'expected'), CASES)
def test_the_tokens_are_those_of_the_scorer(text, expected):
    assert tokens(text) == expected.split(' ')


def test_all_white_space_separates():
    assert tokens(' a\tcat\r\n\u2028sits\u3000here ') == [
        *('a', 'cat', 'sits', 'here')
    ]


@pytest.mark.parametrize('text', ['', ' \n', '.', '?', '" \' -', '\U0001f600'])
def test_a_text_may_have_no_token(text):
    assert tokens(text) == []


# Digests of the scorer's tokens, one line for each caption.
@pytest.mark.parametrize(
    ('part', 'digest'),
    [('train', '0311236df009d87f'), ('test', '3cfdd56564b81cf2')],
)
def test_captions_of_photographs_have_the_tokens_of_the_scorer(
    photos, part, digest
):
    data = json.loads((photos / f'captions_{part}.json').read_text())
    assert digest_of(a['caption'] for a in data['annotations']) == digest


@pytest.mark.parametrize(
    ('part', 'digest'),
    [('short', '05749b92ee5bd451'), ('long', 'df598c7296bf2c54')],
)
def test_generated_captions_have_the_tokens_of_the_scorer(
    evaluation_data, part, digest
):
    path = evaluation_data / 'chair' / f'minigpt4_13b_{part}.jsonl'
    lines = path.read_text().splitlines()
    assert digest_of(json.loads(line)['caption'] for line in lines) == digest


def digest_of(texts) -> str:
    lines = '\n'.join(' '.join(tokens(text)) for text in texts)
    return hashlib.blake2b(lines.encode(), digest_size=8).hexdigest()
