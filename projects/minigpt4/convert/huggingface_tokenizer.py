# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Adapt the LLM's tokenizer to a Hugging Face folder.

With a fixed template it encodes the segments of a prompt separately, as our
tokenisation does. Stop strings become stop token ids.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

from ..prompts import ChatTemplate, Template
from ..prompts.tokenization import encode_answer

# Separates the segments of a prompt. The folder's tokenizer encodes what
# follows it as the start of a text, and makes no token of it.
SEGMENT = '\x1e'
# larger than any logit
_CERTAIN = 10000.0
# texts before a stop string, some of which tokens may join with it
_TEXTS_BEFORE_STOP = ('', ' ', '\n', 'a', '.', '!', '?', '"', ')', '1')


def image_token(
    tokenizer: Any, template: Template, stop_ids: Collection[int] = ()
) -> str:
    """Choose a special token that stands for images.

    It is an existing one that no text is encoded to: a new token would need a
    new row in the LLM's embedding table. LLaMA's is ``<unk>``, which its byte
    fallback never produces. Chat LLMs have others, for other tasks.

    Args:
        tokenizer: A tokenizer with a backend of the tokenizers library.
        template: The prompt template, whose tokens are not used.
        stop_ids: Ids of tokens that the LLM generates, which are not used.

    Raises:
        ValueError: The tokenizer has none.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())['model']
    used = {tokenizer.bos_token, tokenizer.eos_token}
    used |= {*tokenizer.convert_ids_to_tokens([*stop_ids])}
    written = ''
    if isinstance(template, ChatTemplate):
        written = tokenizer.get_chat_template()
    special = [
        token.content
        for _, token in sorted(tokenizer.added_tokens_decoder.items())
        # others remove the white space next to an image
        if token.special and not (token.lstrip or token.rstrip)
    ]
    unknown = tokenizer.unk_token
    candidates = [unknown] if model.get('byte_fallback') else []
    candidates += [
        x for x in special if x not in (unknown, tokenizer.pad_token)
    ]
    # the end of a text in some vocabularies, which the LLM may generate
    candidates.append(tokenizer.pad_token)
    if not model.get('unk_token'):
        candidates.append(unknown)
    for token in candidates:
        if token in special and token not in used and token not in written:
            return token
    raise ValueError(
        f'the tokenizer of {tokenizer.name_or_path} has no special token but '
        'those that text uses, so none can stand for images; add one to it '
        'within the rows that the LLM has.'
    )


def exported_tokenizer(
    tokenizer: Any, template: Template, added: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a folder.

    It adds no special tokens: the chat template writes them.

    Args:
        tokenizer: A tokenizer with a backend of the tokenizers library.
        template: The prompt template; for a fixed one the segments of a
            prompt are encoded separately.
        added: Further special tokens, whose ids follow all others.
    """
    content = tokenizer.backend_tokenizer.to_str()
    if added:
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(content)
        backend.add_special_tokens([*added])
        content = backend.to_str()
    data = json.loads(content)
    data.update(truncation=None, padding=None, post_processor=None)
    return data if template.writes_special_tokens else _segmenting(data)


def _segmenting(data: dict[str, Any]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` that encodes segments separately.

    Segments are separated by ``SEGMENT``.
    """
    normalizers = _flatten(data['normalizer'])
    pre_tokenizers = _flatten(data['pre_tokenizer'])
    # The first token of a text has a mark; the steps that add it must add it
    # after SEGMENT too.
    for step in normalizers:
        if step['type'] == 'Prepend':
            mark = step['prepend']
            normalizers = [
                *normalizers,
                _replace(rf'\A{mark}{SEGMENT}', SEGMENT),
                _replace(f'{SEGMENT}(?=[^{SEGMENT}])', SEGMENT + mark),
            ]
    for step in pre_tokenizers:
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
    data['pre_tokenizer'] = dict(
        type='Sequence', pretokenizers=[split, *pre_tokenizers]
    )
    return data


def _flatten(step: dict | None) -> list[dict]:
    """Return the steps of a normalizer or pre-tokenizer, nested or not."""
    if step is None:
        return []
    if step['type'] == 'Sequence':
        steps = step.get('normalizers', step.get('pretokenizers', []))
        return [inner for nested in steps for inner in _flatten(nested)]
    return [step]


def _replace(pattern: str, content: str) -> dict:
    return dict(type='Replace', pattern=dict(Regex=pattern), content=content)


def stop_settings(
    tokenizer: Any, stop: Sequence[str], stop_ids: Sequence[int] = ()
) -> dict[str, Any]:
    """Convert stop strings to token ids, for servers that know only those.

    A token that contains a stop string ends the answer. After a stop string
    of several tokens (LLaMA's ``##``, ``#``) the end token gets a bias that
    makes it certain.

    Args:
        tokenizer: The LLM's tokenizer.
        stop: The stop strings.
        stop_ids: Ids of further tokens that end an answer.

    Returns:
        ``eos_token_id`` and, where needed, ``sequence_bias`` of a
        ``GenerationConfig``.
    """
    eos = tokenizer.eos_token_id
    end_ids = [*dict.fromkeys([eos, *stop_ids])]
    sequences = set()
    vocabulary = sorted(tokenizer.get_vocab().values())
    texts = tokenizer.batch_decode([[i] for i in vocabulary])
    for stop_string in stop:
        end_ids += [
            i
            for i, text in zip(vocabulary, texts, strict=True)
            if stop_string in text and i not in end_ids
        ]
        for before in _TEXTS_BEFORE_STOP:
            ids = encode_answer(tokenizer, before, stop_string)
            length = next(
                n
                for n in range(len(ids), 0, -1)
                if stop_string in tokenizer.decode(ids[-n:])
                and stop_string not in tokenizer.decode(ids[-n:][1:])
            )
            sequences.add(tuple(ids[-length:]))
    settings: dict[str, Any] = dict(eos_token_id=end_ids)
    bias = [
        [[*ids, eos], _CERTAIN]
        for ids in sorted(sequences)
        if not set(ids) & set(end_ids)
    ]
    if bias:
        settings['sequence_bias'] = bias
    return settings
