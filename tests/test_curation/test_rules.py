# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The step rules: reasons, settings, near duplicates in any order."""

import os
import random
import socket

import pytest

from minigpt4.curation import pipeline
from minigpt4.curation.ledger import Ledger, LedgerImage
from minigpt4.curation.pipeline import (
    StepItem,
    count,
    plan,
    run_step,
    run_steps,
)
from minigpt4.curation.rules import (
    RULES,
    RulesSettings,
    RulesStep,
    check_text,
)
from minigpt4.utils.signals import StopRequest

GOOD = (
    'The image shows a man on a wooden bench in a park. He wears a blue '
    'coat and reads a newspaper. Behind him there are tall trees.'
)
OTHER = (
    'A plate with two slices of pizza stands on a white table. Next to it '
    'there is a glass of water, and a fork lies on a red napkin.'
)
BAD = {
    'encoding': GOOD + ' \ufffd.',
    'length': 'A man on a bench.',
    'apology': GOOD + " I'm sorry I made a mistake.",
    'marker': GOOD + ' ### It is a large park.',
    'characters': GOOD + '☃' * 20 + '.',
    'repetition': GOOD + ' ' + GOOD,
    'fragment': GOOD + ' Trees. Grass. Sky. Sun.',
    'unfinished': GOOD + ' There is also',
    'language': GOOD + ' Das Bild zeigt einen Mann auf einer grünen Bank.',
}


def test_each_rule_on_texts_drops_what_it_describes():
    settings = RulesSettings()
    assert set(BAD) == {rule.id for rule in RULES if rule.check}
    assert check_text(GOOD, settings).rule is None
    for rule, text in BAD.items():
        found = check_text(text, settings)
        assert found.rule == rule, found
        assert found.reason.endswith('.')
        # off or only a warning: it passes
        rules = [r for r in RULES if r.id != rule]
        assert check_text(text, settings, rules).rule != rule
        warned = check_text(text, RulesSettings(warn=(rule,)))
        assert warned.rule is None
        assert [flag['reason'] for flag in warned.flags] == [rule]


def test_the_papers_apologies_are_there():
    for phrase in ("I'm sorry I made a mistake", 'I apologize for that'):
        found = check_text(f'{GOOD} {phrase}.', RulesSettings())
        assert found.rule == 'apology'


@pytest.mark.parametrize(
    'tag', ['<think>', '</think>', '<reasoning>', '<|im_end|>', '[INST]']
)
def test_tags_of_models_are_dropped(tag):
    found = check_text(f'{tag}hmm the user. {GOOD}', RulesSettings())
    assert found.rule == 'marker'


def test_a_repaired_encoding_is_kept_and_flagged():
    found = check_text(GOOD.replace('a man', 'a manâ€™s son'), RulesSettings())
    assert found.rule is None
    assert 'a man’s son' in found.text
    assert [flag['reason'] for flag in found.flags] == ['encoding']


def test_invented_objects_drop_where_the_objects_are_known():
    def rule(details, **settings):
        return check_text(OTHER, RulesSettings(**settings), details=details)

    known = dict(objects=['pizza', 'fork'])  # not the dining table
    assert rule(known).rule is None  # off
    found = rule(known, max_invented=0)
    assert found.rule == 'invented_object'
    assert 'names dining table, which the image is not' in found.reason
    assert rule(known, max_invented=1).rule is None
    for details in (
        dict(known, captions=['a meal on a table']),
        dict(objects=[]),
        {},
        None,
    ):
        assert rule(details, max_invented=0).rule is None
    steps = [RulesStep(RulesSettings(max_invented=n)) for n in (None, 0, 1)]
    assert 'invented_object' not in steps[0].settings
    assert steps[1].settings != steps[2].settings
    image = LedgerImage(1, 'd1', '/i/1.jpg', dict(known, phash='0' * 16))
    for step, status in zip(steps, ('ok', 'dropped', 'ok'), strict=True):
        items = [StepItem(image, OTHER, {})]
        step.prepare(items, [])
        assert [r.status for r in step.run(iter(items))] == [status]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match='did you mean apology'):
        RulesSettings(skip=('apologies',))


def make_ledger(path, n):
    ledger = Ledger(path)
    # hashes far from each other, except those of 2 and 5
    hashes = [random.Random(i).getrandbits(64) for i in range(n + 1)]
    hashes[5] = hashes[2] ^ 0b1011
    ledger.add_images(
        (f'd{i}', f'/i/{i}.jpg', dict(phash=f'{hashes[i]:016x}'))
        for i in range(1, n + 1)
    )
    return ledger


TEXTS = {
    1: BAD['unfinished'],
    2: OTHER,
    3: GOOD,
    4: GOOD + ' They are green.',  # near 3
    5: GOOD.replace('man', 'woman').replace('blue', 'grey') + ' It is late.',
    6: BAD['unfinished'] + ' a lake.',  # near 3 and 4
    7: BAD['length'],
}
EXPECTED = {
    1: 'unfinished',
    2: None,
    3: None,
    4: 'near_duplicate_text',
    5: 'near_duplicate_image',
    6: 'near_duplicate_text',
    7: 'length',
}


def outcome(ledger, step):
    return {
        r.image: r.details.get('rule') for r in ledger.results(step.number)
    }


def test_near_duplicates(tmp_path, fixed_texts):
    with (
        make_ledger(tmp_path / 'l.sqlite', 7) as ledger,
        StopRequest() as stop,
    ):
        steps = plan(ledger, [fixed_texts(TEXTS), RulesStep(RulesSettings())])
        run_steps(ledger, steps, ['repair', 'rules'], stop)
        assert outcome(ledger, steps[1]) == EXPECTED
        found = {r.image: r for r in ledger.results(steps[1].number)}
        assert (
            found[4]
            .details['reason']
            .startswith('the text is nearly that of image 3 (')
        )
        assert found[5].details['reason'] == (
            'the image is nearly image 2 (3 of 64 bits differ).'
        )
        assert count(ledger, steps[1]) == (2, 5, 0, 0)


@pytest.mark.parametrize('seed', range(6))
def test_the_outcome_is_the_same_after_any_interruption(
    tmp_path, fixed_texts, seed
):
    # images get their results one by one in a random order, each from a new
    # process: a new step
    order = random.Random(seed).sample(range(1, 8), 7)
    with (
        make_ledger(tmp_path / 'l.sqlite', 7) as ledger,
        StopRequest() as stop,
    ):
        for number in order:
            step = RulesStep(RulesSettings())
            run = step.run
            step.run = lambda items, run=run, number=number: run(
                item for item in items if item.image.id == number
            )
            steps = plan(ledger, [fixed_texts(TEXTS), step])
            run_steps(ledger, steps, ['repair', 'rules'], stop)
        assert outcome(ledger, steps[1]) == EXPECTED


def test_a_late_near_duplicate_of_a_kept_one_is_dropped(tmp_path, fixed_texts):
    # the text of 3 failed at first, so that 4 was kept
    late = fixed_texts({**TEXTS, 3: None})
    with (
        make_ledger(tmp_path / 'l.sqlite', 7) as ledger,
        StopRequest() as stop,
    ):
        steps = plan(ledger, [late, RulesStep(RulesSettings())])
        run_steps(ledger, steps, ['repair', 'rules'], stop)
        assert outcome(ledger, steps[1])[4] is None
        late.texts = TEXTS
        steps = plan(ledger, [late, RulesStep(RulesSettings())])
        run_steps(ledger, steps, ['repair', 'rules'], stop)
        assert outcome(ledger, steps[1])[3] == 'near_duplicate_text'


def test_the_step_waits_for_other_processes(
    tmp_path, fixed_texts, monkeypatch
):
    path = tmp_path / 'l.sqlite'
    first = fixed_texts(TEXTS)
    waits = []
    with (
        make_ledger(path, 7) as ledger,
        Ledger(path) as other,
        StopRequest() as stop,
    ):
        other.owner = f'{socket.gethostname()}:{os.getppid()}'
        steps = plan(ledger, [first, RulesStep(RulesSettings())])
        claimed = other.claim(steps[0].number, None, 3)

        def finish(seconds):
            waits.append(seconds)
            items = [StepItem(image, '', {}) for image, _ in claimed]
            other.add_results(steps[0].number, first.run(items))

        monkeypatch.setattr(pipeline.time, 'sleep', finish)
        run_steps(ledger, steps, ['repair', 'rules'], stop)
        assert len(waits) == 1
        assert outcome(ledger, steps[1]) == EXPECTED


def test_near_duplicates_may_only_warn(tmp_path, fixed_texts):
    settings = RulesSettings(warn=('near_duplicate_text',))
    with (
        make_ledger(tmp_path / 'l.sqlite', 7) as ledger,
        StopRequest() as stop,
    ):
        steps = plan(ledger, [fixed_texts(TEXTS), RulesStep(settings)])
        run_steps(ledger, steps, ['repair', 'rules'], stop)
        found = {r.image: r for r in ledger.results(steps[1].number)}
        assert found[4].status == 'ok'
        assert [f['reason'] for f in found[4].details['flags']] == [
            'near_duplicate_text'
        ]
        assert found[3].details['flags'] == []


def test_images_left_in_an_earlier_step_are_refused(tmp_path, fixed_texts):
    with (
        make_ledger(tmp_path / 'l.sqlite', 7) as ledger,
        StopRequest() as stop,
    ):
        steps = plan(ledger, [fixed_texts(TEXTS), RulesStep(RulesSettings())])
        with pytest.raises(ValueError, match='but 7 have no result of repair'):
            run_steps(ledger, steps, ['rules'], stop)


def test_an_unreadable_image_without_a_hash_fails(tmp_path, fixed_texts):
    with Ledger(tmp_path / 'l.sqlite') as ledger, StopRequest() as stop:
        ledger.add_images([('d', str(tmp_path / 'none.png'), {})])
        steps = plan(
            ledger, [fixed_texts({1: GOOD}), RulesStep(RulesSettings())]
        )
        run_steps(ledger, steps, ['repair', 'rules'], stop)
        (failure,) = ledger.failures(steps[1].number)
        assert 'none.png' in failure.text
        # nor is another file read than the one that was added
        (tmp_path / 'none.png').write_bytes(b'another')
        run_step(ledger, steps[1], stop)
        (failure,) = ledger.failures(steps[1].number)
        assert 'none.png is not the file that was added' in failure.text
        # without the rule it is not read
        off = RulesSettings(skip=('near_duplicate_image',))
        steps = plan(ledger, [fixed_texts({1: GOOD}), RulesStep(off)])
        for step in steps:
            run_step(ledger, step, stop)
        assert count(ledger, steps[1]).ok == 1
