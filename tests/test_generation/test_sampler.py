# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The choice of tokens: sampling, penalties, batches."""

import pytest
import torch
from transformers import GenerationConfig

from minigpt4.generation.sampler import Sampler, choose_tokens
from minigpt4.generation.sampling_params import SamplingParams

CPU = torch.device('cpu')


def test_is_greedy_where_scores_are_not_changed():
    assert Sampler(SamplingParams(), (2,), CPU).is_greedy
    for setting in (
        dict(do_sample=True),
        dict(repetition_penalty=1.1),
        dict(min_new_tokens=3),
    ):
        assert not Sampler(SamplingParams(**setting), (2,), CPU).is_greedy


def test_the_same_seed_samples_the_same_tokens():
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))

    def sample(seed):
        sampler = Sampler(SamplingParams(do_sample=True, seed=seed), (2,), CPU)
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
    sampler = Sampler(params, (2,), CPU)
    for step, (logits, expected) in enumerate(zip(out.logits, out.scores)):
        found = sampler.process(logits.clone(), ids[:step])
        torch.testing.assert_close(found, expected)


def test_nan_scores_are_an_error():
    sampler = Sampler(SamplingParams(do_sample=True), (2,), CPU)
    with pytest.raises(ValueError, match='not numbers'):
        sampler(torch.full((5,), float('nan')), [])


def test_tokens_of_a_batch_are_chosen_request_by_request():
    scores = torch.tensor([[0.0, 2.0, 1.0], [float('nan')] * 3, [3.0, 2, 1]])
    penalty = SamplingParams(repetition_penalty=9.0)
    samplers = [
        Sampler(params, (2,), CPU)
        for params in (SamplingParams(), SamplingParams(), penalty)
    ]
    first, error, penalised = choose_tokens(scores, samplers, [[], [], [0]])
    assert (first, penalised) == (1, 1)
    assert isinstance(error, ValueError)
