# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
from types import SimpleNamespace

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from minigpt4_vllm.answers import (
    adapt_params,
    penalize,
    penalty_of,
    repeated_tokens,
)


def make_params(**changes):
    """Sampling parameters of vLLM, as far as they are changed."""
    values = dict(
        stop=[], detokenize=True, repetition_penalty=1.0, extra_args=None
    )
    return SimpleNamespace(**{**values, **changes})


def test_stop_strings_are_added():
    params = make_params(stop=['end', '###'])
    adapt_params(params, ('###', '[INST]'))
    assert params.stop == ['end', '###', '[INST]']


def test_without_text_there_are_no_stop_strings():
    params = make_params(detokenize=False)
    adapt_params(params, ('###',))
    assert params.stop == []


def test_the_penalty_is_moved():
    params = make_params(repetition_penalty=1.2, extra_args={'a': 1})
    adapt_params(params, ())
    assert params.repetition_penalty == 1
    assert penalty_of(params) == 1.2
    assert params.extra_args['a'] == 1


def test_a_second_call_changes_nothing():
    params = make_params(repetition_penalty=1.2)
    adapt_params(params, ('###',))
    before = dict(vars(params))
    adapt_params(params, ('###',))
    assert vars(params) == before


def test_a_request_without_penalty_has_none():
    params = make_params()
    adapt_params(params, ())
    assert params.extra_args is None
    assert penalty_of(params) == 1


@pytest.mark.parametrize('penalty', [1.15, 0.8])
def test_scores_equal_those_of_transformers(penalty):
    torch.manual_seed(0)
    scores = torch.randn(2, 20)
    scores[0, 3] = 0
    answers = [[3, 5, 5, 7], [1, 2, 3, 19]]
    is_repeated = torch.zeros(2, 20, dtype=torch.bool)
    for row, ids in enumerate(answers):
        is_repeated[row, ids] = True
    found = penalize(scores, is_repeated, torch.full((2, 1), penalty))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor(answers), scores.clone()
    )
    assert torch.equal(found, expected)
    assert not torch.equal(found, scores)


def test_tokens_of_the_prompt_are_not_repeated():
    token_ids = torch.tensor([[5, 6, 1, 1, 4, 0, 9], [2, 3, 7, 9, 9, 9, 9]])
    start, end = torch.tensor([[2], [3]]), torch.tensor([[5], [3]])
    found = repeated_tokens(token_ids, start, end, 10)
    assert found.shape == (2, 10)
    assert found[0].nonzero().flatten().tolist() == [1, 4]
    assert not found[1].any()
