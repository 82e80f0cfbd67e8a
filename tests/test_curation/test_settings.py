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
        (
            'rules: {skip: nothing}',
            [],
            'curation.yml: rules.skip is "nothing"; expected a list, e.g. '
            'rules.skip=[length].',
        ),
        (
            '',
            ['export.layouts=llava'],
            '--set export.layouts=llava: export.layouts is "llava"; expected '
            'a list, e.g. export.layouts=[cc_sbu_align].',
        ),
        # the source of the error, not of the other settings
        (
            'rules: {min_words: 1}',
            ['foo.bar=1'],
            '--set foo.bar=1: there is no setting foo; expected one of ',
        ),
        (
            'foo: {}',
            ['foo.bar=1'],
            'curation.yml: there is no setting foo; expected one of ',
        ),
        (
            'repair: {model: m}',
            ['repair.backend=recorded'],
            '--set repair.backend=recorded: in repair, backend is recorded, '
            'but recorded is empty; give the JSONL file of the answers.',
        ),
        (
            'repair: {backend: recorded}',
            ['repair.model=m'],
            'curation.yml: in repair, backend is recorded, but recorded is '
            'empty; ',
        ),
        # a key that is there twice, in any mapping
        (
            'rules: {min_words: 1}\ndescribe: {}\nrules: {max_words: 9}',
            [],
            'curation.yml, line 3: the key rules is there twice, first in '
            'line 1; join the two.',
        ),
        (
            'rules:\n  min_words: 1\n  "min_words": 2',
            [],
            'curation.yml, line 3: the key min_words is there twice, first '
            'in line 2; ',
        ),
        (
            '',
            ['describe.generation={top_k: 1, top_k: 2}'],
            '--set describe.generation={top_k: 1, top_k: 2}: the key top_k '
            'is there twice, first in line 1; give it once.',
        ),
        (
            'describe: {prompt: "a \\ud83d"}',
            [],
            'curation.yml: "a \\ud83d" contains half a character',
        ),
        (
            '',
            ['describe.prompt="a \\ud83d"'],
            '--set describe.prompt="a \\ud83d" contains half a character ',
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


def test_a_missing_file_is_named_with_its_option(tmp_path):
    file = tmp_path / 'none.yml'
    with pytest.raises(FileNotFoundError) as error:
        read_settings(file)
    assert str(error.value) == (
        f'--config {file} does not exist; give a YAML file of settings.'
    )


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
