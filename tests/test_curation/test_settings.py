# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Settings from a file, from --set and from the last run."""

import pytest

from minigpt4.curation.pipeline import plan
from minigpt4.curation.settings import (
    STEP_NAMES,
    CurationSettings,
    build_steps,
    dump_settings,
    load_settings,
    read_settings,
)


def test_a_file_and_overrides(tmp_path):
    file = tmp_path / 'curation.yml'
    file.write_text(
        'describe:\n  slots: 4\n  generation: {max_new_tokens: 50}\n'
        'continue:\n  min_tokens: 10\n',
        'utf-8',
    )
    settings = read_settings(
        file,
        ['rules.min_words=3', 'rules.skip=[language]', 'describe.slots=2'],
    )
    assert settings.describe.slots == 2
    assert settings.describe.generation == dict(max_new_tokens=50)
    assert settings.continue_.min_tokens == 10
    assert settings.rules.min_words == 3
    assert settings.rules.skip == ('language',)


def test_the_settings_of_the_last_run_are_the_default(ledger, tmp_path):
    assert load_settings(ledger) == CurationSettings()
    first = load_settings(ledger, None, ['rules.min_words=3'])
    ledger.save_settings(dump_settings(first))
    assert load_settings(ledger) == first
    second = load_settings(ledger, None, ['rules.max_words=90'])
    assert (second.rules.min_words, second.rules.max_words) == (3, 90)
    # a file replaces them all
    file = tmp_path / 'curation.yml'
    file.write_text('')
    assert load_settings(ledger, file) == CurationSettings()


@pytest.mark.parametrize(
    ('text', 'overrides', 'expected'),
    [
        (
            'describe: {slots: 0}',
            [],
            'curation.yml: describe.slots is 0; input should be greater than '
            'or equal to 1.',
        ),
        (
            '',
            ['describe.slots=many'],
            '--set describe.slots=many: describe.slots is "many"; input '
            'should be a valid integer, unable to parse string as an '
            'integer.',
        ),
        (
            'rules: {min_wrods: 1}',
            [],
            'curation.yml: there is no setting rules.min_wrods; did you mean '
            'min_words?',
        ),
        (
            'rule: {}',
            [],
            'curation.yml: there is no setting rule; did you mean rules?',
        ),
        (
            'rules: {skip: [lenght]}',
            [],
            'curation.yml: rules.skip is ["lenght"]; there is no rule '
            "'lenght'; did you mean length?",
        ),
        (
            'rules: 3',
            [],
            'curation.yml: rules is 3; input should be a valid dictionary or '
            'instance of RulesSettings.',
        ),
        ('[1]', [], 'curation.yml has [1]; expected the sections describe, '),
        (
            'rules:\n\tmin_words: 1',
            [],
            'curation.yml is not a YAML file (line 2: ',
        ),
        (
            '',
            ['min_words=1'],
            '--set min_words=1 has not the form SECTION.FIELD=VALUE, e.g. '
            '--set rules.min_words=10.',
        ),
        (
            '',
            ['rules.skip=[a'],
            'the value of --set rules.skip=[a is not YAML (line 1: ',
        ),
    ],
)
def test_a_wrong_value_is_named(
    tmp_path, monkeypatch, text, overrides, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'curation.yml').write_text(text, 'utf-8')
    with pytest.raises(ValueError) as error:
        read_settings('curation.yml', overrides)
    assert str(error.value).startswith(expected)
    assert '\n' not in str(error.value)


def test_the_steps_depend_on_what_changes_their_results(ledger):
    def keys(*overrides):
        settings = load_settings(ledger, None, overrides)
        steps = plan(ledger, build_steps(settings))
        return [step.number for step in steps]

    base = keys()
    assert len(base) == len(STEP_NAMES)
    assert keys('describe.slots=2', 'describe.workers=1') == base
    changed = keys('rules.min_words=3')
    assert changed[:-1] == base[:-1] and changed[-1] != base[-1]
    changed = keys('continue.min_tokens=3')
    assert changed[0] == base[0]
    assert not set(changed[1:]) & set(base[1:])
    changed = keys('describe.generation={max_new_tokens: 3}')
    assert not set(changed) & set(base)
    # parameters of a rule that is off do not matter
    assert keys('rules.skip=[length]') == keys(
        'rules.skip=[length]', 'rules.min_words=3'
    )
