# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Each row is answered, and ends, by itself."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from minigpt4.generation.hf_generate import StopTexts, generate
from minigpt4.generation.request import Answer


class Scripted(LlamaForCausalLM):
    """Says given ids, row by row; then babbles."""

    def __init__(self, script, vocab_size, babble):
        super().__init__(
            LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=4,
                intermediate_size=4,
                num_hidden_layers=1,
                num_attention_heads=1,
            )
        )
        self.script, self.babble = script, babble
        self.step = 0
        self.fed = []

    def forward(self, input_ids=None, inputs_embeds=None, **kwargs):
        self.fed.append(inputs_embeds if input_ids is None else input_ids)
        rows = len(self.fed[-1])
        logits = torch.zeros(rows, 1, self.config.vocab_size)
        for row in range(rows):
            said = self.script[row]
            token = said[self.step] if self.step < len(said) else self.babble
            logits[row, -1, token] = 9.0
        self.step += 1
        return CausalLMOutputWithPast(logits=logits)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def speak(tokenizer, script, stop=('###',), **settings):
    llm = Scripted(script, len(tokenizer), ids(tokenizer, 'red')[0])
    shape = (len(script), 2)
    answers = generate(
        llm,
        tokenizer,
        torch.zeros(*shape, 4),
        torch.ones(shape, dtype=torch.long),
        stop,
        **{'max_new_tokens': 12, **settings},
    )
    return answers, llm


def spellings(tokenizer):
    """Ids of an answer that ends in a glued and in a spaced ``###``."""
    glued = ids(tokenizer, 'a circle###')
    spaced = ids(tokenizer, 'a circle ###')
    assert glued != spaced
    return glued, spaced


def check_rows(tokenizer):
    glued, spaced = spellings(tokenizer)
    eos = [*ids(tokenizer, 'what'), tokenizer.eos_token_id]
    endless = ids(tokenizer, 'the blue square on')
    answers, llm = speak(tokenizer, [glued, spaced, eos, endless])
    assert [a.text for a in answers[:3]] == ['a circle', 'a circle', 'what']
    assert answers[3].text.startswith('the blue square on red')
    assert [a.finished for a in answers] == [True, True, True, False]
    assert answers[0].token_ids == glued and answers[1].token_ids == spaced
    assert answers[2].token_ids == eos[:-1]
    assert len(answers[3].token_ids) == 12 == llm.step
    # once all rows have ended, the loop does
    _, llm = speak(tokenizer, [glued, spaced, eos])
    assert llm.step == max(map(len, (glued, spaced, eos)))


def test_rows_end_by_themselves(tiny_tokenizer):
    check_rows(tiny_tokenizer)


def test_rows_end_by_themselves_with_llamas_tokenizer(llama_tokenizer):
    glued, spaced = spellings(llama_tokenizer)
    assert glued[-2:] == [2277, 29937] and spaced[-1] == 835
    check_rows(llama_tokenizer)


def test_padding_of_its_own_is_no_answer(tiny_tokenizer_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        tiny_tokenizer_dir, pad_token='<unk>'
    )
    assert tokenizer.pad_token_id == 0
    check_rows(tokenizer)


def test_nothing_after_the_stop_string_leaks(tiny_tokenizer):
    said = ids(tiny_tokenizer, 'a circle###Human: what')
    # tokens are checked one by one, so that it stops within the text
    answers, llm = speak(tiny_tokenizer, [said, ids(tiny_tokenizer, 'red')])
    assert answers[0].text == 'a circle' and answers[0].finished
    assert len(answers[0].token_ids) < len(said)


def test_first_of_several_stop_strings_counts(tiny_tokenizer):
    said = ids(tiny_tokenizer, 'red blue green red')
    answers, _ = speak(tiny_tokenizer, [said], stop=('green', 'blue'))
    assert answers[0].text == 'red' and answers[0].finished
    answers, _ = speak(tiny_tokenizer, [said], stop=(), max_new_tokens=4)
    assert answers[0].text == 'red blue green red'
    assert not answers[0].finished


def test_limit_is_exact(tiny_tokenizer):
    answers, llm = speak(tiny_tokenizer, [[]], max_new_tokens=3)
    assert answers == [
        Answer('red red red', ids(tiny_tokenizer, 'red red red'), False)
    ]
    assert llm.step == 3


def test_prompt_goes_in_once_as_embeddings_without_bos(tiny_tokenizer):
    said = ids(tiny_tokenizer, 'the red circle')
    _, llm = speak(tiny_tokenizer, [said], max_new_tokens=3)
    assert llm.fed[0].shape == (1, 2, 4) and llm.fed[0].is_floating_point()
    fed = torch.cat([x.flatten() for x in llm.fed[1:]]).tolist()
    assert fed and tiny_tokenizer.bos_token_id not in fed


def test_stop_texts_looks_at_each_row(tiny_tokenizer):
    glued, spaced = spellings(tiny_tokenizer)
    plain = ids(tiny_tokenizer, 'the small green square and on')
    length = max(map(len, (glued, spaced, plain)))
    rows = torch.tensor(
        [[9] * (length - len(row)) + row for row in (glued, plain, spaced)]
    )
    done = StopTexts(tiny_tokenizer, ('###',))(rows, None)
    assert done.tolist() == [True, False, True]
    early = StopTexts(tiny_tokenizer, ('###',))(rows[:, :-1], None)
    assert early.tolist() == [False, False, False]


def test_greedy_whatever_the_llm_came_with(build_tiny, make_sample):
    model = build_tiny()
    samples = [make_sample([0], 'describe')]
    want = model.generate(samples, max_new_tokens=8)
    model.decoder.llm.generation_config.update(
        do_sample=True, temperature=50.0
    )
    assert [model.generate(samples, max_new_tokens=8) for _ in range(3)] == [
        want
    ] * 3
    sampled = {
        model.generate(
            samples, max_new_tokens=8, do_sample=True, temperature=50.0
        )[0].text
        for _ in range(4)
    }
    assert len(sampled) > 1


@pytest.mark.parametrize('settings', [{}, dict(num_beams=2)])
def test_a_batch_is_its_singles(tiny_model, make_sample, settings):
    samples = [
        make_sample([0], 'describe this image in detail'),
        make_sample([], 'what is the colour of a small circle on a square'),
        make_sample([1, 2], '<ImageHere> or <ImageHere>'),
        make_sample([3], 'what', 'the red circle', 'a blue square'),
        make_sample([4], ''),
    ]
    settings = dict(max_new_tokens=10, **settings)
    together = tiny_model.generate(samples, **settings)
    alone = [tiny_model.generate([s], **settings)[0] for s in samples]
    assert together == alone
    assert len({a.text for a in together}) == len(samples)
    assert together[::-1] == tiny_model.generate(samples[::-1], **settings)


def test_greedy_is_the_argmax_of_the_logits(tiny_model, make_sample):
    """Generation sees what the loss sees: no other mask or positions."""
    samples = [make_sample([0], 'describe'), make_sample([], 'what is a red')]
    answers = tiny_model.generate(samples, max_new_tokens=1)
    tiny_model.line_length = None
    (piece,) = tiny_model.collator(training=True)(samples)['pieces']
    batch = tiny_model.data_preprocessor(piece)
    with torch.no_grad():
        logits = tiny_model(**batch)
    last = batch['inputs'].attention_mask.sum(1) - 1
    for row, answer in enumerate(answers):
        assert answer.token_ids == [int(logits[row, last[row]].argmax())]


@pytest.mark.parametrize('least', [0, 3, 8, 11, 12])
def test_nothing_ends_an_answer_below_the_minimum(tiny_tokenizer, least):
    """Neither a stop text nor the end of text (vllm #21987)."""
    said = ids(tiny_tokenizer, 'a circle###')
    first = len(said)
    said += [tiny_tokenizer.eos_token_id, *ids(tiny_tokenizer, 'blue###')]
    (answer,), _ = speak(tiny_tokenizer, [said], min_new_tokens=least)
    assert len(answer.token_ids) >= least
    assert answer.text.startswith('a circle')
    assert ('###' in answer.text) == (least >= first)
    assert tiny_tokenizer.eos_token_id not in answer.token_ids


def test_a_long_stop_text_is_found(tiny_tokenizer):
    """One whose tokens are more than those of any usual stop text."""
    mark = 'END ' + '😀' * 6 + ' OF TEXT'
    said = ids(tiny_tokenizer, f'a circle {mark} red')
    (answer,), _ = speak(
        tiny_tokenizer, [said], stop=[mark], max_new_tokens=len(said)
    )
    assert answer.text == 'a circle' and answer.finished
    assert len(answer.token_ids) < len(said)
