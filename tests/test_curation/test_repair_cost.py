# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Estimates of costs, and their sum in a ledger."""

import pytest

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.pipeline import plan
from minigpt4.curation.repair_cost import (
    StoredCost,
    estimate,
    estimate_run,
)
from minigpt4.curation.repair_settings import RepairSettings


def settings(**fields):
    return RepairSettings(
        **{
            'backend': 'openai',
            'model': 'm',
            'prompt': 'p' * 398,  # with two line breaks 100 tokens
            'price_prompt': 2.0,
            'price_completion': 8.0,
            **fields,
        }
    )


def test_the_estimate_says_how_it_counts():
    found = estimate(settings(), ['d' * 80] * 1000 + ['', ' '])
    assert found[:3] == (1000, 120_000, 20_000)
    assert found.cost_usd == pytest.approx(0.24 + 0.16)
    assert str(found) == (
        'repair: 1,000 requests, about 120,000 prompt tokens and 20,000 '
        'tokens of answers (4 characters per token); about $0.400000'
    )
    found = estimate(
        settings(price_prompt=None, price_completion=None), ['d' * 80]
    )
    assert str(found).endswith('; no prices are set')


@pytest.mark.parametrize('backend', ['none', 'recorded'])
def test_what_asks_no_model_needs_nothing(backend):
    found = estimate(settings(backend=backend, recorded='x'), ['a', 'b'])
    assert found[:3] == (0, 0, 0) and found.cost_usd is None


def test_a_tokenizer_counts_exactly(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {'a': 0, 'dog': 1, '[UNK]': 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token='[UNK]'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(
        tmp_path
    )
    found = estimate(
        settings(prompt='Fix it now', tokenizer=str(tmp_path)), ['a dog a dog']
    )
    assert (found.prompt_tokens, found.completion_tokens) == (7, 4)
    assert f'counted with the tokenizer {tmp_path}' in str(found)
    with pytest.raises(ValueError, match='cannot be loaded'):
        estimate(settings(tokenizer=str(tmp_path / 'none')), [])


def test_the_costs_of_all_settings_and_failures_are_stored(tmp_path):
    with Ledger(tmp_path / 'l.sqlite') as ledger:
        ledger.add_images((str(i), f'/{i}', {}) for i in range(3))
        stored = StoredCost(ledger)
        assert stored() == 0
        one, two, other = (
            ledger.add_step(key, name, {})
            for key, name in (
                ('a', 'repair'),
                ('b', 'repair'),
                ('c', 'describe'),
            )
        )
        ledger.add_results(one, [Result(1, 'ok', 'x', {'cost_usd': 1.5})])
        ledger.add_results(two, [Result(1, 'failed', 'x', {'cost_usd': 2})])
        ledger.add_results(two, [Result(2, 'failed', 'x', {})])
        ledger.add_results(other, [Result(1, 'ok', 'x', {'cost_usd': 9})])
        assert stored() == 3.5 == stored()
        ledger.add_results(one, [Result(2, 'ok', 'x', {'cost_usd': 0.5})])
        assert stored() == 4 == StoredCost(ledger)()
    assert StoredCost(None)() == 0


def test_texts_that_do_not_exist_yet_count_as_the_mean():
    found = estimate(settings(), ['d' * 40, 'd' * 120], unknown=8)
    assert found.requests == 10 and found.completion_tokens == 40 + 160
    assert found.prompt_tokens == 10 * 100 + 200
    assert '20 for each of 8 texts that do not exist yet' in str(found)


def test_a_run_is_estimated_from_its_ledger(tmp_path):
    class Step:
        settings = {}

        def __init__(self, name):
            self.name = name

    with Ledger(tmp_path / 'l.sqlite') as ledger:
        ledger.add_images((str(i), f'/{i}', {}) for i in range(10))
        steps = plan(ledger, [Step('describe'), Step('repair')])
        ledger.add_results(
            steps[0].number,
            [Result(i, 'ok', 'd' * 40, {}) for i in range(1, 7)],
        )
        ledger.add_results(steps[1].number, [Result(1, 'ok', 'x', {})])
        found = estimate_run(ledger, steps, settings())
    # 5 drafts without a repair, and 4 images without a draft
    assert found[:3] == (9, 990, 90)
