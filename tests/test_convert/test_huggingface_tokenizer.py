# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stop strings and images are tokens that transformers understands."""

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, LogitsProcessor

from minigpt4.convert.huggingface_tokenizer import image_token, stop_settings
from minigpt4.prompts import get_template


def test_image_token(llama_tokenizer):
    template = get_template('vicuna_v0')
    assert image_token(llama_tokenizer, template) == '<unk>'


def test_stop_settings_of_llama(llama_tokenizer):
    settings = stop_settings(llama_tokenizer, ('###',))
    assert settings['eos_token_id'][:2] == [2, 835]
    assert settings['sequence_bias'] == [[[2277, 29937, 2], 10000.0]]


def test_stop_string_of_several_tokens_ends_the_answer(tiny_llm_dir):
    class Force(LogitsProcessor):
        """Make the tokens of ``answer`` the most likely."""

        def __call__(self, input_ids, scores):
            scores[:, answer[input_ids.shape[1] - 1]] += 100
            return scores

    tokenizer = AutoTokenizer.from_pretrained(tiny_llm_dir)
    stop_ids = tokenizer.convert_tokens_to_ids(['#', '#', '#'])
    answer = [20, *stop_ids[:2], 21, *stop_ids, 22, 23, 24]
    settings = stop_settings(tokenizer, ('###',))
    settings['sequence_bias'] = [[[*stop_ids, 2], 10000.0]]
    llm = LlamaForCausalLM.from_pretrained(tiny_llm_dir)
    ids = llm.generate(
        torch.tensor([[1]]),
        logits_processor=[Force()],
        max_new_tokens=10,
        do_sample=False,
        pad_token_id=2,
        **settings,
    )
    assert ids[0, 1:].tolist() == answer[:7] + [2]
