# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The LLM's tokenizer as a Hugging Face folder needs it.

It begins anew behind a mark, as we tokenise segments one by one, and tells
by ids alone where an answer ends.
"""

import json
from collections.abc import Sequence
from typing import Any

from ..prompts.tokenization import encode_answer

# Stands before each segment of a prompt. The folder's tokenizer makes no
# token of it and begins anew behind it, as we tokenise segments one by one.
SEGMENT = '\x1e'
# beyond any logit
_CERTAIN = 10000.0
# what a stop string may be glued to, or not, where an answer ends
_BEFORE_STOP = ('', ' ', '\n', 'a', '.', '!', '?', '"', ')', '1')


def image_token(tokenizer) -> str:
    """A special token that no text becomes, to stand for images.

    An existing one: a new token would need a new row in the LLM's tables.
    LLaMA's is ``<unk>``, which its byte fallback never writes.

    Raises:
        ValueError: The tokenizer has none.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())['model']
    taken = {tokenizer.bos_token, tokenizer.eos_token}
    if not model.get('byte_fallback') and model.get('unk_token'):
        taken.add(tokenizer.unk_token)
    special = [
        token.content
        for _, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special
    ]
    for token in (tokenizer.unk_token, *special):
        if token and token in special and token not in taken:
            return token
    raise ValueError(
        f'the tokenizer of {tokenizer.name_or_path} has no special token but '
        'those that text uses, so none can stand for images; add one to it '
        'within the rows that the LLM has.'
    )


def segmenting_tokenizer(tokenizer) -> dict:
    """The ``tokenizer.json`` that begins anew behind each ``SEGMENT``.

    It adds no special tokens by itself: the chat template writes them.

    Args:
        tokenizer: A tokenizer with a backend of the tokenizers library.
    """
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data.update(truncation=None, padding=None, post_processor=None)
    before, cut = data['normalizer'], data['pre_tokenizer']
    normalizers, cuts = _flat(before), _flat(cut)
    # a word's first token differs at the start of a text; whatever puts its
    # mark there has to put it behind SEGMENT as well
    for step in normalizers:
        if step['type'] == 'Prepend':
            mark = step['prepend']
            normalizers = [
                *normalizers,
                _replace(rf'\A{mark}{SEGMENT}', SEGMENT),
                _replace(f'{SEGMENT}(?=[^{SEGMENT}])', SEGMENT + mark),
            ]
    for step in cuts:
        if step['type'] == 'Metaspace' and step['prepend_scheme'] == 'first':
            mark = step['replacement']
            normalizers = [
                *normalizers,
                _replace(f'{SEGMENT}(?=[^{SEGMENT} {mark}])', SEGMENT + mark),
            ]
    split = dict(
        type='Split',
        pattern=dict(String=SEGMENT),
        behavior='Removed',
        invert=False,
    )
    data['normalizer'] = (
        dict(type='Sequence', normalizers=normalizers) if normalizers else None
    )
    data['pre_tokenizer'] = dict(type='Sequence', pretokenizers=[split, *cuts])
    return data


def _flat(step: dict | None) -> list[dict]:
    if step is None:
        return []
    if step['type'] == 'Sequence':
        parts = step.get('normalizers', step.get('pretokenizers', []))
        return [inner for part in parts for inner in _flat(part)]
    return [step]


def _replace(pattern: str, content: str) -> dict:
    return dict(type='Replace', pattern=dict(Regex=pattern), content=content)


def stop_settings(tokenizer, stop: Sequence[str]) -> dict[str, Any]:
    """Stop strings as token ids, for servers that stop at ids alone.

    A token that holds a stop string ends the answer. After a spelling of
    several tokens (LLaMA's ``##``, ``#``) the end token is made certain.

    Returns:
        ``eos_token_id`` and, where needed, ``sequence_bias`` of a
        ``GenerationConfig``.
    """
    eos = tokenizer.eos_token_id
    ends = [eos]
    spelled = set()
    vocabulary = sorted(tokenizer.get_vocab().values())
    texts = tokenizer.batch_decode([[i] for i in vocabulary])
    for mark in stop:
        ends += [
            i
            for i, text in zip(vocabulary, texts, strict=True)
            if mark in text and i not in ends
        ]
        for before in _BEFORE_STOP:
            ids = encode_answer(tokenizer, before, mark)
            first = next(
                n
                for n in range(len(ids), 0, -1)
                if mark in tokenizer.decode(ids[-n:])
                and mark not in tokenizer.decode(ids[-n:][1:])
            )
            spelled.add(tuple(ids[-first:]))
    settings: dict[str, Any] = dict(eos_token_id=ends)
    bias = [
        [[*ids, eos], _CERTAIN]
        for ids in sorted(spelled)
        if not set(ids) & set(ends)
    ]
    if bias:
        settings['sequence_bias'] = bias
    return settings
