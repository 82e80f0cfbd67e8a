# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Small tokenizers with the chat templates of well-known LLMs.

Each has the special tokens, the text processing and the chat template of its
family; the vocabulary is trained here on a few sentences. The templates in
``chat_templates`` have the output of the families' own, without tools.
"""

import json
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / 'chat_templates'
TEXTS = [
    'What is in this image? A red circle and a blue square are in it.',
    'system user assistant model You are a helpful assistant.',
    'How many things are there? There are 12 things, and 3 of them are red.',
    '[INST] Describe the image [/INST] The sky is blue. <|im_start|>',
    '<Img></Img> Where is the cat?\n\nIt is on the sofa.\n',
]
# the pattern of Llama 3 and Qwen, whose lookahead treats blanks at the end
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def _byte_level(texts=TEXTS) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _sentence_piece(prefix: str) -> Tokenizer:
    """Return a BPE tokenizer as SentencePiece has it.

    Args:
        prefix: Where texts get a space before them: ``'always'`` (after each
            special token too), ``'first'`` (at the start only) or
            ``'never'``.
    """
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{i:02X}>' for i in range(256))]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(' ', '▁')
    trained.pre_tokenizer = pre_tokenizers.Split('▁', 'merged_with_next')
    trained.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=250, show_progress=False)
    )
    content = json.loads(trained.to_str())['model']
    learned = sorted(content['vocab'], key=content['vocab'].get)
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *learned])}
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            [tuple(merge) for merge in content['merges']],
            unk_token='<unk>',
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list = [decoders.Replace('▁', ' ')]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if prefix == 'first':
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme='first', split=False
        )
    else:
        replace = normalizers.Replace(' ', '▁')
        backend.normalizer = (
            normalizers.Sequence([normalizers.Prepend('▁'), replace])
            if prefix == 'always'
            else replace
        )
    if prefix != 'never':
        steps.append(decoders.Strip(' ', 1, 0))
    backend.decoder = decoders.Sequence(steps)
    return backend


def _wrap(backend: Tokenizer, name: str, special, **roles):
    backend.add_special_tokens(
        [
            token
            if isinstance(token, AddedToken)
            else AddedToken(token, special=True, normalized=False)
            for token in special
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=(TEMPLATES / f'{name}.jinja').read_text().rstrip('\n'),
        clean_up_tokenization_spaces=False,
        **roles,
    )


def _add_bos(backend: Tokenizer, bos: str) -> None:
    backend.add_special_tokens(
        [AddedToken(bos, special=True, normalized=False)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f'{bos} $A',
        pair=f'{bos} $A {bos} $B',
        special_tokens=[(bos, backend.token_to_id(bos))],
    )


def _chat_ml(name: str, **roles):
    backend = _byte_level()
    tokenizer = _wrap(
        backend,
        name,
        ['<|endoftext|>', '<|im_start|>', '<|im_end|>'],
        eos_token='<|im_end|>',
        pad_token='<|endoftext|>',
        **roles,
    )
    if name == 'qwen3':
        tokenizer.add_tokens(
            [
                AddedToken(text, special=False, normalized=False)
                for text in ('<think>', '</think>')
            ]
        )
    return tokenizer


def _llama_3():
    backend = _byte_level()
    _add_bos(backend, '<|begin_of_text|>')
    return _wrap(
        backend,
        'llama_3',
        [
            *('<|end_of_text|>', '<|start_header_id|>', '<|end_header_id|>'),
            *('<|eom_id|>', '<|eot_id|>', '<|python_tag|>'),
        ],
        bos_token='<|begin_of_text|>',
        eos_token='<|eot_id|>',
    )


def _mistral(name: str, prefix: str, special=()):
    backend = _sentence_piece(prefix)
    _add_bos(backend, '<s>')
    return _wrap(
        backend,
        name,
        ['<unk>', '</s>', *special],
        bos_token='<s>',
        eos_token='</s>',
        unk_token='<unk>',
    )


def _gemma():
    backend = _sentence_piece('never')
    _add_bos(backend, '<bos>')
    backend.add_tokens(
        [
            AddedToken(text, special=False, normalized=False)
            for text in ('\n', '\n\n', '▁▁', '<table>')
        ]
    )
    return _wrap(
        backend,
        'gemma',
        ['<pad>', '<eos>', '<start_of_turn>', '<end_of_turn>'],
        bos_token='<bos>',
        eos_token='<eos>',
        pad_token='<pad>',
    )


def _phi_3():
    special = [
        AddedToken(text, special=True, normalized=False, rstrip=True)
        for text in (
            *('</s>', '<|assistant|>', '<|system|>', '<|end|>', '<|user|>'),
        )
    ]
    backend = _sentence_piece('always')
    return _wrap(
        backend,
        'phi_3',
        ['<unk>', '<s>', *special, '<|endoftext|>'],
        bos_token='<s>',
        eos_token='<|endoftext|>',
        unk_token='<unk>',
    )


FAMILIES = {
    'smollm2': lambda: _chat_ml('smollm2', bos_token='<|im_start|>'),
    'qwen2_5': lambda: _chat_ml('qwen2_5'),
    'qwen3': lambda: _chat_ml('qwen3'),
    'llama_3': _llama_3,
    'mistral_v0_1': lambda: _mistral('mistral_v0_1', 'always'),
    'mistral_v0_3': lambda: _mistral(
        'mistral_v0_3', 'first', ['[INST]', '[/INST]']
    ),
    'gemma': _gemma,
    'phi_3': _phi_3,
}


@cache
def family_tokenizer(name: str):
    """Return the tokenizer of a family; read only."""
    return FAMILIES[name]()


def new_tokenizer(name: str):
    """Return a tokenizer of a family that a test may change."""
    return FAMILIES[name]()


def to_messages(turns, system=None, system_role=True) -> list[dict]:
    """Return turns as messages of transformers.

    Args:
        turns: The turns; the answer of the last may be None.
        system: The system message, or None.
        system_role: Whether the template takes it; else it is put in front
            of the first question.
    """
    messages = []
    for turn in turns:
        messages.append(dict(role='user', content=turn.question))
        if turn.answer is not None:
            messages.append(dict(role='assistant', content=turn.answer))
    if system is not None and system_role:
        messages.insert(0, dict(role='system', content=system))
    elif system is not None:
        first = messages[0]
        first['content'] = f'{system}\n\n{first["content"]}'
    return messages


def reference_text(tokenizer, messages) -> str:
    """Return what transformers renders, with thinking off, on a fixed day."""
    return tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=messages[-1]['role'] == 'user',
        enable_thinking=False,
        date_string='26 Jul 2024',
    )


def reference_ids(tokenizer, messages) -> list[int]:
    """Return the ids of transformers, as for ``tokenize=True``."""
    text = reference_text(tokenizer, messages)
    return tokenizer(text, add_special_tokens=False).input_ids
