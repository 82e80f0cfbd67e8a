# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Each sequence of a batch is answered, and ends, by itself."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from minigpt4.generation.hf_generate import StopStringCriteria, hf_generate
from minigpt4.generation.request import Answer


class Scripted(LlamaForCausalLM):
    """Generates given ids for each sequence, then one token indefinitely."""

    def __init__(self, script, vocab_size, filler):
        super().__init__(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=4,
                intermediate_size=4,
                num_hidden_layers=1,
                num_attention_heads=1,
            )
        )
        self.script, self.filler = script, filler
        self.step = 0
        self.fed = []

    def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
        self.fed.append(inputs_embeds if input_ids is None else input_ids)
        batch = len(self.fed[-1])
        logits = torch.zeros(batch, 1, self.config.vocab_size)
        for i in range(batch):
            ids = self.script[i]
            token = ids[self.step] if self.step < len(ids) else self.filler
            logits[i, -1, token] = 9.0
        self.step += 1
        return CausalLMOutputWithPast(logits=logits)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def run_script(tokenizer, script, stop=('###',), **settings):
    llm = Scripted(script, len(tokenizer), ids(tokenizer, 'red')[0])
    shape = (len(script), 2)
    answers = hf_generate(
        llm,
        tokenizer,
        torch.zeros(*shape, 4),
        torch.ones(shape, dtype=torch.long),
        stop,
        **{'max_new_tokens': 12, **settings},
    )
    return answers, llm


def tokenizations(tokenizer):
    """Ids of an answer that ends in a glued and in a spaced ``###``."""
    glued = ids(tokenizer, 'a circle###')
    spaced = ids(tokenizer, 'a circle ###')
    assert glued != spaced
    return glued, spaced


def check_batch(tokenizer):
    glued, spaced = tokenizations(tokenizer)
    eos = [*ids(tokenizer, 'what'), tokenizer.eos_token_id]
    endless = ids(tokenizer, 'the blue square on')
    answers, llm = run_script(tokenizer, [glued, spaced, eos, endless])
    assert [a.text for a in answers[:3]] == ['a circle', 'a circle', 'what']
    assert answers[3].text.startswith('the blue square on red')
    assert [a.finished for a in answers] == [True, True, True, False]
    assert answers[0].token_ids == glued and answers[1].token_ids == spaced
    assert answers[2].token_ids == eos[:-1]
    assert len(answers[3].token_ids) == 12 == llm.step
    # the loop ends with the last sequence
    _, llm = run_script(tokenizer, [glued, spaced, eos])
    assert llm.step == max(map(len, (glued, spaced, eos)))


def test_sequences_end_independently(tiny_tokenizer):
    check_batch(tiny_tokenizer)


def test_sequences_end_independently_with_the_llama_tokenizer(llama_tokenizer):
    glued, spaced = tokenizations(llama_tokenizer)
    assert glued[-2:] == [2277, 29937] and spaced[-1] == 835
    check_batch(llama_tokenizer)


def test_the_tokenizers_pad_token_is_not_part_of_an_answer(tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        tiny_tokenizer_dir, pad_token='<unk>'
    )
    assert tokenizer.pad_token_id == 0
    check_batch(tokenizer)


def test_text_after_the_stop_string_is_cut(tiny_tokenizer):
    token_ids = ids(tiny_tokenizer, 'a circle###Human: what')
    # checked after each token, so it stops within the text
    answers, llm = run_script(
        tiny_tokenizer, [token_ids, ids(tiny_tokenizer, 'red')]
    )
    assert answers[0].text == 'a circle' and answers[0].finished
    assert len(answers[0].token_ids) < len(token_ids)


def test_the_first_of_several_stop_strings_ends(tiny_tokenizer):
    token_ids = ids(tiny_tokenizer, 'red blue green red')
    answers, _ = run_script(
        tiny_tokenizer, [token_ids], stop=('green', 'blue')
    )
    assert answers[0].text == 'red' and answers[0].finished
    answers, _ = run_script(
        tiny_tokenizer, [token_ids], stop=(), max_new_tokens=4
    )
    assert answers[0].text == 'red blue green red'
    assert not answers[0].finished


def test_max_new_tokens_is_exact(tiny_tokenizer):
    answers, llm = run_script(tiny_tokenizer, [[]], max_new_tokens=3)
    assert answers == [
        Answer('red red red', ids(tiny_tokenizer, 'red red red'), False)
    ]
    assert llm.step == 3


def test_the_prompt_is_fed_once_as_embeddings_without_bos(tiny_tokenizer):
    token_ids = ids(tiny_tokenizer, 'the red circle')
    _, llm = run_script(tiny_tokenizer, [token_ids], max_new_tokens=3)
    assert llm.fed[0].shape == (1, 2, 4) and llm.fed[0].is_floating_point()
    fed = torch.cat([x.flatten() for x in llm.fed[1:]]).tolist()
    assert fed and tiny_tokenizer.bos_token_id not in fed


def test_the_stop_criteria_check_each_sequence(tiny_tokenizer):
    glued, spaced = tokenizations(tiny_tokenizer)
    plain = ids(tiny_tokenizer, 'the small green square and on')
    length = max(map(len, (glued, spaced, plain)))
    rows = torch.tensor(
        [[9] * (length - len(row)) + row for row in (glued, plain, spaced)]
    )
    done = StopStringCriteria(tiny_tokenizer, ('###',))(rows, None)
    assert done.tolist() == [True, False, True]
    early = StopStringCriteria(tiny_tokenizer, ('###',))(rows[:, :-1], None)
    assert early.tolist() == [False, False, False]


@pytest.mark.parametrize('least', [0, 3, 8, 11, 12])
def test_min_new_tokens_is_the_least_length(tiny_tokenizer, least):
    """Neither a stop string nor end of text ends before (vllm #21987)."""
    token_ids = ids(tiny_tokenizer, 'a circle###')
    first = len(token_ids)
    token_ids += [tiny_tokenizer.eos_token_id, *ids(tiny_tokenizer, 'blue###')]
    (answer,), _ = run_script(
        tiny_tokenizer, [token_ids], min_new_tokens=least
    )
    assert len(answer.token_ids) >= least
    assert answer.text.startswith('a circle')
    assert ('###' in answer.text) == (least >= first)
    assert tiny_tokenizer.eos_token_id not in answer.token_ids


def test_a_long_stop_string_is_found(tiny_tokenizer):
    """One with more tokens than are searched for a short one."""
    mark = 'END ' + '😀' * 6 + ' OF TEXT'
    token_ids = ids(tiny_tokenizer, f'a circle {mark} red')
    (answer,), _ = run_script(
        tiny_tokenizer, [token_ids], stop=[mark], max_new_tokens=len(token_ids)
    )
    assert answer.text == 'a circle' and answer.finished
    assert len(answer.token_ids) < len(token_ids)


def test_answer_ends_at_a_stop_id(build_chat):
    """The token is not in the answer, and padding after it neither."""
    model = build_chat('smollm2')
    decoder, tokenizer = model.decoder, model.decoder.tokenizer
    texts = ('What is a circle?', 'How many cats are there?')
    ids = [tokenizer(text).input_ids[:5] for text in texts]
    prompts = torch.tensor(ids)
    embeddings = decoder.embed_tokens(prompts).detach()

    def answers(**settings):
        return hf_generate(
            decoder.llm,
            tokenizer,
            embeddings,
            torch.ones_like(prompts),
            max_new_tokens=8,
            **settings,
        )

    complete = answers(stop_ids=[])
    assert [len(answer.token_ids) for answer in complete] == [8, 8]
    assert not any(answer.finished for answer in complete)
    ids = complete[0].token_ids
    token = next(i for i in ids[1:] if i not in complete[1].token_ids)
    short = answers(stop_ids=[tokenizer.eos_token_id, token])
    assert short[0].token_ids == ids[: ids.index(token)]
    assert short[0].finished and not short[1].finished
    assert short[1] == complete[1]


def test_log_probabilities_of_each_sequence(tiny_tokenizer):
    """By hand: 9 for the token, 0 for all others."""
    words = ids(tiny_tokenizer, 'a red circle')
    end = tiny_tokenizer.eos_token_id
    answers, llm = run_script(
        tiny_tokenizer, [words, [words[0], end]], logprobs=2, max_new_tokens=3
    )
    vocabulary = llm.config.vocab_size
    expected = 9 - math.log(math.exp(9) + vocabulary - 1)
    assert [answer.token_ids for answer in answers] == [words[:3], words[:1]]
    for answer in answers:
        assert [one.token_id for one in answer.logprobs] == answer.token_ids
        for one in answer.logprobs:
            assert one.logprob == pytest.approx(expected, abs=1e-5)
            assert one.top[0] == (one.token_id, one.logprob)
            assert one.top[1][1] == pytest.approx(expected - 9, abs=1e-5)
    (plain,), _ = run_script(tiny_tokenizer, [words], max_new_tokens=3)
    assert plain.logprobs is None
