# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parameters are checked by name and value; tokens match transformers."""

import pytest
import torch
from transformers import GenerationConfig

from minigpt4.generation.sampling import (
    Sampler,
    SamplingParams,
    choose_tokens,
)

CPU = torch.device('cpu')


def test_later_parameters_override_earlier_ones():
    params = SamplingParams.of(
        dict(max_new_tokens=80, stop='x'), dict(max_new_tokens=5)
    )
    assert params == SamplingParams(max_new_tokens=5, stop=('x',))
    assert SamplingParams.of({}) == SamplingParams()
    assert not SamplingParams().do_sample, 'greedy by default'


@pytest.mark.parametrize(
    'setting, message',
    [
        (
            dict(max_tokens=3),
            'unknown generation setting max_tokens;.*max_new',
        ),
        (dict(max_new_tokens=0), 'max_new_tokens is 0; expected an integer'),
        (dict(max_new_tokens=True), 'max_new_tokens is True'),
        (dict(max_new_tokens=2.5), 'max_new_tokens is 2.5'),
        (
            dict(temperature=0),
            'temperature is 0; expected above 0, at least',
        ),
        (dict(temperature=1e-300), 'temperature is 1e-300; expected above 0'),
        (dict(temperature=float('nan')), 'temperature is nan'),
        (dict(temperature='hot'), "temperature is 'hot'"),
        (dict(top_p=1.5), 'top_p is 1.5; expected above 0, up to 1'),
        (dict(top_k=-1), 'top_k is -1'),
        (dict(repetition_penalty=0), 'repetition_penalty is 0'),
        (dict(num_beams=0), 'num_beams is 0'),
        (dict(seed=2**70), 'seed is 1180591620717411303424'),
        (dict(stop=['']), r"stop is \('',\); expected texts"),
        (dict(stop=''), r"stop is \('',\); expected texts"),
        (dict(stop=[3]), 'stop is'),
        (
            dict(min_new_tokens=9, max_new_tokens=8),
            'min_new_tokens is 9, more than max_new_tokens 8',
        ),
        (dict(min_new_tokens=-1), 'min_new_tokens is -1'),
        (dict(stop=3), 'stop is 3; expected texts'),
        (dict(do_sample='yes'), "do_sample is 'yes'"),
    ],
)
def test_invalid_parameters_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams.of(setting)


def test_is_greedy_where_scores_are_not_changed():
    assert Sampler(SamplingParams(), 2, CPU).is_greedy
    for setting in (
        dict(do_sample=True),
        dict(repetition_penalty=1.1),
        dict(min_new_tokens=3),
    ):
        assert not Sampler(SamplingParams(**setting), 2, CPU).is_greedy


def test_the_same_seed_samples_the_same_tokens():
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))

    def sample(seed):
        sampler = Sampler(SamplingParams(do_sample=True, seed=seed), 2, CPU)
        torch.rand(3)  # other code uses torch's generator as well
        return [sampler(scores, []) for _ in range(20)]

    assert sample(1) == sample(1) != sample(2)
    torch.manual_seed(5)
    once = sample(None)
    torch.manual_seed(5)
    assert sample(None) == once, "torch's generator gives the seed"


def test_scores_are_those_of_transformers(tiny_model):
    """The same processors in the same order as in its ``generate``."""
    llm = tiny_model.decoder.llm
    params = SamplingParams(
        do_sample=True,
        temperature=0.7,
        top_k=20,
        top_p=0.9,
        repetition_penalty=1.3,
        min_new_tokens=4,
    )
    arguments = params.to_transformers()
    del arguments['seed']
    config = GenerationConfig(eos_token_id=2, pad_token_id=0, **arguments)
    torch.manual_seed(0)
    out = llm.generate(
        inputs_embeds=torch.randn(1, 3, 32),
        generation_config=config,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        max_new_tokens=6,
    )
    ids = out.sequences[0].tolist()
    sampler = Sampler(params, 2, CPU)
    for step, (logits, expected) in enumerate(zip(out.logits, out.scores)):
        found = sampler.processors(
            torch.tensor([ids[:step]], dtype=torch.long), logits.clone()
        )
        torch.testing.assert_close(found, expected)


def test_nan_scores_are_an_error():
    sampler = Sampler(SamplingParams(do_sample=True), 2, CPU)
    with pytest.raises(ValueError, match='not numbers'):
        sampler(torch.full((5,), float('nan')), [])


def test_tokens_of_a_batch_are_chosen_request_by_request():
    scores = torch.tensor([[0.0, 2.0, 1.0], [float('nan')] * 3, [3.0, 2, 1]])
    penalty = SamplingParams(repetition_penalty=9.0)
    samplers = [
        Sampler(params, 2, CPU)
        for params in (SamplingParams(), SamplingParams(), penalty)
    ]
    first, error, penalised = choose_tokens(scores, samplers, [[], [], [0]])
    assert (first, penalised) == (1, 1)
    assert isinstance(error, ValueError)
