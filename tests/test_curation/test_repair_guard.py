# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The guard on hand-written repairs, good and bad.

``python tests/test_curation/test_repair_guard.py`` prints its precision and
recall on the table.
"""

import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from minigpt4.curation.repair_guard import RepairGuard
from minigpt4.curation.repair_settings import REPAIR_PROMPT, GuardSettings

# hand-written: the drafts imitate those of the paper's stage-1 model
TABLE = Path(__file__).with_name('repairs.jsonl')


def guard(**settings):
    return RepairGuard(GuardSettings(**settings), REPAIR_PROMPT)


def reasons(draft, repair, **settings):
    return [flag.reason for flag in guard(**settings).flags(draft, repair)]


def rows():
    return [json.loads(line) for line in TABLE.read_text('utf-8').splitlines()]


def measure():
    """The rows by what the guard did, and what it did wrong.

    Returns:
        By flag: ``found``, ``missed``, and ``false`` on good repairs or
        ``also`` on bad ones (e.g. an explanation makes a text longer too);
        by kind of row: ``clean`` and ``flagged``; the errors.
    """
    checked = guard()
    flags, kinds, errors = {}, {}, []
    for row in rows():
        expected = set(row['flags'])
        found = {
            flag.reason for flag in checked.flags(row['draft'], row['repair'])
        }
        for name in expected | found:
            if name not in expected:
                kind = 'also' if expected else 'false'
            else:
                kind = 'found' if name in found else 'missed'
            flags.setdefault(name, Counter())[kind] += 1
        kind = kinds.setdefault('bad' if expected else 'good', Counter())
        kind['flagged' if found else 'clean'] += 1
        if found != expected:
            errors.append((row['repair'], sorted(expected), sorted(found)))
    return flags, kinds, errors


def test_the_table_is_separated():
    pytest.importorskip('lingua')
    flags, kinds, errors = measure()
    assert kinds['good']['flagged'] <= 2 and kinds['good']['clean'] >= 38
    assert kinds['bad']['clean'] <= 1 and kinds['bad']['flagged'] >= 54
    assert set(flags) == {
        name
        for name, field in GuardSettings.model_fields.items()
        if field.default == 'flag'
    }
    for name, counts in flags.items():
        assert counts['missed'] <= 1, (name, errors)


def damaged_captions(count=1000):
    """Yield drafts and texts of photographs: people's captions, damaged.

    The last sentence of a draft is cut off, one is repeated, articles are
    missing and letters exchanged. The text adds nothing to its draft.
    """
    random = Random(0)
    path = Path(os.environ['MINIGPT4_PHOTOS'], 'captions_train.json')
    captions = {}
    for record in json.loads(path.read_text('utf-8'))['annotations']:
        caption = record['caption'].strip().rstrip('.')
        captions.setdefault(record['image_id'], []).append(caption)
    for sentences in [*captions.values()][:count]:
        *kept, last = sentences[:4]
        words = f'{". ".join([*kept, kept[0]])}. {last}'.split()
        del words[-(len(last.split()) // 2) :]
        words = [
            w for w in words if w not in ('a', 'the') or random.random() > 0.2
        ]
        for i, word in enumerate(words):
            if len(word) > 4 and random.random() < 0.07:
                at = random.randrange(1, len(word) - 2)
                words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        yield ' '.join(words), f'{". ".join(kept)}.'


def measure_captions():
    """Shares of flagged texts: nothing added, and a sentence of another."""
    checked = guard(language='ignore')
    pairs = list(damaged_captions())
    texts = [text for _, text in pairs]
    counts = {}
    for shift in (0, 1):
        counts[shift] = Counter(
            flag.reason
            for i, (draft, text) in enumerate(pairs)
            for flag in checked.flags(
                draft,
                text
                if not shift
                else f'{text} {texts[(i + 97) % len(texts)].split(".")[0]}.',
            )
        )
    return len(pairs), counts


@pytest.mark.skipif(
    'MINIGPT4_PHOTOS' not in os.environ,
    reason='MINIGPT4_PHOTOS names no folder of photographs',
)
def test_few_captions_without_additions_are_flagged():
    total, counts = measure_captions()
    assert counts[0]['added_object'] <= 0.02 * total
    assert counts[0]['added_noun'] <= 0.1 * total
    assert counts[0]['added_number'] <= 0.02 * total
    assert counts[1]['added_noun'] >= 0.5 * total


def test_an_unchanged_text_has_no_flags():
    text = 'As an AI language model, I see 5 dogs. Here is the text: dog.'
    assert guard().flags(text, text) == []


def test_each_flag_is_a_sentence_with_what_was_added():
    flags = guard(language='ignore').flags(
        'A man is on a bench.', 'A man is on a bench with 3 dogs and a harp.'
    )
    assert [flag.text for flag in flags] == [
        'The repair names objects that the draft lacks: dog.',
        'The repair has nouns that the draft lacks: harp.',
        'The repair has the number 3, the draft not.',
    ]
    assert {flag.action for flag in flags} == {'flag'}


def test_checks_can_be_ignored_or_have_other_actions():
    found = guard(
        language='ignore', added_object='reject', added_number='ignore'
    ).flags('A man.', 'A man with 3 dogs.')
    assert [(f.reason, f.action) for f in found] == [
        ('added_object', 'reject')
    ]


@pytest.mark.parametrize(
    ('draft', 'repair'),
    [
        # the same class by another name, a pronoun, a plural, a typo
        ('A man rides.', 'A person rides.'),
        ('He is on a hill.', 'The man is on a hill.'),
        ('Dogs run.', 'A dog runs.'),
        ('A gren umbrela is open.', 'A green umbrella is open.'),
        ('There is a refridgerator.', 'There is a refrigerator.'),
        # the same number in another form
        ('There are 12 boats.', 'There are twelve boats.'),
        ('A pair of dogs runs.', 'Two dogs run.'),
        ('There are 1,000 birds.', 'There are one thousand birds.'),
        ('He is 25.', 'He is twenty-five.'),
        # "one" is rarely a count
        ('A boat and another boat.', 'One boat and another.'),
    ],
)
def test_what_the_draft_has_in_other_words_is_not_added(draft, repair):
    assert reasons(draft, repair, language='ignore', added_noun='ignore') == []


def test_a_prompt_of_the_user_leaks_too():
    own = 'Please correct all the errors of this little text now.'
    checked = RepairGuard(GuardSettings(language='ignore'), own)
    repair = f'{own} A dog runs.'
    assert 'prompt_leak' in {f.reason for f in checked.flags('A dog.', repair)}


def test_the_share_of_words_ignores_repetition():
    draft = 'A dog runs in the park. ' * 20
    assert reasons(draft, 'A dog runs in the park.', language='ignore') == []
    draft = 'A dog runs and ' + 'runs and ' * 30
    assert reasons(draft, 'A dog runs.', language='ignore') == []
    assert (
        reasons(
            'A dog runs in a park.', 'A dog.', language='ignore', min_share=0.3
        )
        == []
    )
    assert reasons('A dog runs in a park.', 'A dog.', language='ignore') == [
        'shrunk'
    ]


def test_drafts_with_any_characters_are_checked():
    for text in ('', '\ud800', '\0\n', '…' * 1000, '1/2 10:30 3.5 ٣ ²'):
        assert isinstance(reasons(text, 'A dog.', language='ignore'), list)
        assert isinstance(reasons('A dog.', text, language='ignore'), list)


if __name__ == '__main__':
    by_flag, by_kind, wrong = measure()
    for name, count in sorted(by_flag.items()):
        print(name, dict(count))
    print({kind: dict(count) for kind, count in by_kind.items()})
    print(*wrong, sep='\n')
    print(measure_captions())
