# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Log-probabilities of tokens are those of the LLM itself."""

import math

import pytest
import torch

from minigpt4.generation.detokenizer import Detokenizer
from minigpt4.generation.engine import Engine
from minigpt4.generation.logprobs import (
    TextTokens,
    TokenLogprob,
    token_logprobs,
)
from minigpt4.generation.request import Answer, GenerationRequest
from minigpt4.generation.sampling_params import SamplingParams
from minigpt4.llm.token_bytes import TokenBytes
from minigpt4.models.packing import build_inputs


def test_log_probabilities_by_hand():
    scores = torch.tensor([[0.5, 0.25, 0.125, 0.125]] * 3).log() + 7
    found = token_logprobs(scores, [1, 0, ValueError('a')], [2, None, 4])
    assert found[1:] == [None, None]
    assert found[0].token_id == 1
    assert found[0].logprob == pytest.approx(math.log(0.25))
    assert [token_id for token_id, _ in found[0].top] == [0, 1]
    assert [value for _, value in found[0].top] == pytest.approx(
        [math.log(0.5), math.log(0.25)]
    )
    (all_,) = token_logprobs(scores[:1].half(), [3], [20])
    assert len(all_.top) == 4
    assert all_.logprob == pytest.approx(math.log(0.125), abs=1e-2)
    (chosen,) = token_logprobs(scores[:1], [3], [0])
    assert chosen.top == () and chosen.logprob == pytest.approx(-math.log(8))


def test_nothing_is_computed_unless_it_is_asked_for():
    assert token_logprobs(None, [4, 5], [None, None]) == [None, None]


@pytest.fixture(params=['tiny_tokenizer', 'llama_tokenizer'])
def tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ('text', 'stop', 'answer'),
    [
        ('a red circle', '###', 'a red circle'),
        ('née 日本 😀 of', '###', 'née 日本 😀 of'),
        ('  a \n red### blue', '###', 'a \n red'),
        ('a circle ###', '###', 'a circle'),
        ('a circle \n\n### a', '###', 'a circle'),
        (' ###', '###', ''),
        ('a ##circle', '###', 'a ##circle'),
        ('a##', '###', 'a##'),
        ('###', '###', ''),
        ('日本 a', '本', '日'),
        ('the circle', 'ircl', 'the c'),
        ('a red   ', '###', 'a red'),
        ('née 日本 red ' * 20 + '###', '###', ('née 日本 red ' * 20).strip()),
    ],
)
def test_tokens_count_when_their_text_is_returned(
    tokenizer, text, stop, answer
):
    token_bytes = TokenBytes(tokenizer)
    token_ids = tokenizer(text, add_special_tokens=False).input_ids
    detokenizer = Detokenizer(tokenizer, [stop])
    tokens = TextTokens(detokenizer)
    counts = []

    def joined(number: int) -> str:
        found = map(token_bytes, token_ids[:number])
        return b''.join(found).decode(errors='replace').lstrip()

    for token_id in token_ids:
        tokens.add(token_id)
        counts.append(tokens.count)
        # the text is a beginning of the text of the tokens that count, and
        # needs all of them
        assert joined(tokens.count).startswith(detokenizer.text)
        last = joined(max(tokens.count - 1, 0)).rstrip('\ufffd')
        assert len(last) <= len(detokenizer.text) or last.isspace()
        if detokenizer.stopped:
            break
    tokens.close()
    assert detokenizer.text == answer
    assert counts == sorted(counts)
    if not detokenizer.stopped:
        assert tokens.count == len(token_ids)
        assert joined(tokens.count).strip() == answer
    else:
        assert joined(tokens.count).startswith(answer)
        fewer = joined(max(tokens.count - 1, 0)).rstrip('\ufffd')
        assert len(fewer) < max(len(answer), 1)


def test_an_incomplete_character_at_the_end_counts(llama_tokenizer):
    ids = llama_tokenizer('a 😀', add_special_tokens=False).input_ids[:-1]
    tokens = TextTokens(Detokenizer(llama_tokenizer, ['###']))
    for token_id in ids:
        tokens.add(token_id)
    assert 0 < tokens.count < len(ids)
    tokens.close()
    assert tokens.count == len(ids)


def test_all_tokens_of_an_answer_in_one_piece_count(llama_tokenizer):
    ids = llama_tokenizer('a 😀', add_special_tokens=False).input_ids[:-1]
    request = GenerationRequest(
        SamplingParams(logprobs=0),
        [],
        Detokenizer(llama_tokenizer, ['###']),
        None,
        lambda: False,
    )
    values = [TokenLogprob(token_id, -0.5) for token_id in ids]
    request.set_answer(Answer('a \ufffd', ids, False, values))
    assert request.text_tokens == len(ids)
    assert request.logprobs == values and request.text == 'a \ufffd'


@torch.no_grad()
def reference(model, prompt, images, token_ids) -> torch.Tensor:
    """Log-probabilities ``(T, vocab_size)`` from one pass over all tokens."""
    inputs = build_inputs([prompt], model.neck.num_tokens, 'left')
    pixels = model.data_preprocessor.normalize(torch.stack(images))
    embeddings = model.embed_inputs(pixels, inputs)
    answer = model.decoder.embed_tokens(torch.tensor([token_ids]))
    together = torch.cat((embeddings, answer.to(embeddings)), 1)
    logits = model.decoder.llm(inputs_embeds=together).logits[0]
    start = embeddings.shape[1] - 1
    return logits[start : start + len(token_ids)].float().log_softmax(-1)


def make_prompt(model, make_sample, seed):
    sample = make_sample([seed], 'describe this image in detail')
    return model.collator(training=False).tokenize(sample), sample.images


def check(request, model, prompt, images, number):
    """Compare the log-probabilities of a request with the reference."""
    assert len(request.logprobs) == len(request.token_ids) > 0
    expected = reference(model, prompt, images, request.token_ids)
    for token, row, token_id in zip(
        request.logprobs, expected, request.token_ids, strict=True
    ):
        assert token.token_id == token_id
        assert token.logprob == pytest.approx(row[token_id].item(), abs=1e-3)
        assert len(token.top) == number
        values = [value for _, value in token.top]
        assert values == pytest.approx(row.topk(number).values.tolist(), 1e-3)


SETTINGS = [
    {},
    dict(do_sample=True, temperature=0.5, top_k=3, top_p=0.5, seed=1),
    dict(repetition_penalty=3.0, min_new_tokens=5),
]


@pytest.mark.parametrize('settings', SETTINGS)
def test_they_are_those_before_sampling(tiny_model, make_sample, settings):
    prompt, images = make_prompt(tiny_model, make_sample, 0)
    engine = Engine(tiny_model)
    plain = engine.submit(prompt, images, max_new_tokens=9, **settings)
    asked = engine.submit(
        prompt, images, max_new_tokens=9, logprobs=4, **settings
    )
    while engine.step():
        pass
    assert plain.logprobs == [] and plain.text_tokens == 0
    assert plain.answer().logprobs is None
    assert asked.token_ids == plain.token_ids and asked.text == plain.text
    check(asked, tiny_model, prompt, images, 4)
    assert asked.answer().logprobs == asked.logprobs


def test_requests_of_one_batch_get_their_own(tiny_model, make_sample):
    engine = Engine(tiny_model)
    work = [(seed, number) for seed, number in enumerate((2, None, 0, 5))]
    requests = []
    for seed, number in work:
        prompt, images = make_prompt(tiny_model, make_sample, seed)
        requests.append(
            engine.submit(prompt, images, max_new_tokens=6, logprobs=number)
        )
    while engine.step():
        pass
    for request, (seed, number) in zip(requests, work, strict=True):
        if number is None:
            assert not request.logprobs
        else:
            prompt, images = make_prompt(tiny_model, make_sample, seed)
            check(request, tiny_model, prompt, images, number)


def test_llms_that_transformers_runs(
    build_tiny, make_llm, tiny_tokenizer, make_sample
):
    folder = make_llm(
        model_type='falcon',
        alibi=True,
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    prompt, images = make_prompt(model, make_sample, 0)
    engine = Engine(model)
    assert not engine.runner.supports_kv_slots
    settings = dict(max_new_tokens=9, repetition_penalty=2.0)
    plain = engine.submit(prompt, images, **settings)
    asked = engine.submit(prompt, images, logprobs=3, **settings)
    while engine.step():
        pass
    assert asked.token_ids == plain.token_ids and asked.text == plain.text
    check(asked, model, prompt, images, 3)
    assert asked.text_tokens == len(asked.token_ids)


def test_tokens_of_a_stop_string_have_no_text(tiny_model, make_sample):
    """They have log-probabilities, as end of text has not."""
    tokenizer = tiny_model.decoder.tokenizer
    words = tokenizer('a red circle', add_special_tokens=False).input_ids
    stop = tokenizer('circle###', add_special_tokens=False).input_ids[
        len(tokenizer('circle', add_special_tokens=False).input_ids) :
    ]

    class Scripted:
        is_greedy = False

        def __init__(self, token_ids):
            self.token_ids = list(token_ids)

        def __call__(self, scores, answer):
            return self.token_ids.pop(0)

    engine = Engine(tiny_model)
    prompt, images = make_prompt(tiny_model, make_sample, 0)
    for script, recorded in (
        ([*words, *stop], len(words) + len(stop)),
        ([*words, tokenizer.eos_token_id], len(words)),
    ):
        request = engine.submit(prompt, images, logprobs=0)
        request.sampler = Scripted(script)
        answer = request.answer()
        assert answer.text == 'a red circle' and answer.finished
        assert len(answer.logprobs) == len(answer.token_ids) == recorded
        assert request.text_tokens == len(words)
