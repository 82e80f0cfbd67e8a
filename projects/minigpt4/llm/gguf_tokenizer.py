# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write the tokenizer of a GGUF file as the files of a Hugging Face folder.

A byte-level BPE (``gpt2`` in the file) becomes a ``tokenizer.json``, a
SentencePiece model (``llama``) becomes a ``tokenizer.model``. Only kinds whose
token ids are known to be right are written: an unknown rule to split text
before the merges would give other ids without any error.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from ..weights.gguf_header import GgufHeader
from ..weights.hf_folder_files import write_json

_PREFIX = 'tokenizer.ggml.'
_CONTROL, _USER_DEFINED = 3, 4  # types of tokens
# Source: tokenizer.json of Llama 3.1 and Qwen2.5
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_QWEN2 = _LLAMA3.replace('{1,3}', '')


def _split(pattern: str) -> Any:
    """Split by a pattern, then map bytes to characters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _digits() -> Any:
    """Split digits from each other, then by the pattern of GPT-2."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), _gpt2()]
    )


def _gpt2() -> Any:
    """Split by the pattern of GPT-2."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


# by the name that llama.cpp gives the rule, in llama-vocab.cpp@master
_SPLITTERS: dict[str, Callable[[], Any]] = {
    'smollm': _digits,
    'gpt-2': _gpt2,
    'llama-bpe': lambda: _split(_LLAMA3),
    'qwen2': lambda: _split(_QWEN2),
    'deepseek-r1-qwen': lambda: _split(_QWEN2),
}


def write_tokenizer(header: GgufHeader, folder: Path) -> None:
    """Write the files of the tokenizer.

    Args:
        header: The header of the GGUF file.
        folder: An existing folder.

    Raises:
        ValueError: The file has no tokenizer, or one that is not supported.
        OSError: They cannot be written.
    """
    path, metadata = header.path, header.metadata
    tokens = metadata.get(f'{_PREFIX}tokens')
    if not isinstance(tokens, list) or not tokens:
        raise ValueError(
            f'{path} has no tokenizer; give a GGUF file of the complete LLM.'
        )
    kind = metadata.get(f'{_PREFIX}model')
    if kind == 'gpt2':
        _write_bpe(header, tokens, folder)
    elif kind == 'llama':
        _write_sentencepiece(header, tokens, folder)
    else:
        raise ValueError(
            f'{path} has a tokenizer of the kind {kind!r}; expected gpt2 or '
            'llama: give the Hugging Face folder of this LLM.'
        )
    settings: dict[str, Any] = dict(
        tokenizer_class=(
            'PreTrainedTokenizerFast' if kind == 'gpt2' else 'LlamaTokenizer'
        ),
        clean_up_tokenization_spaces=False,
        add_bos_token=_adds_bos(header),
    )
    roles = dict(bos='bos', eos='eos', unk='unknown', pad='padding')
    for role, name in roles.items():
        token_id = metadata.get(f'{_PREFIX}{name}_token_id')
        if token_id is None:
            continue
        if type(token_id) is not int or not 0 <= token_id < len(tokens):
            raise ValueError(
                f'{path} has the {name} token {token_id!r}, but its '
                f'vocabulary has {len(tokens):,} tokens; download it again.'
            )
        settings[f'{role}_token'] = tokens[token_id]
    length = metadata.get(f'{header.architecture}.context_length')
    if type(length) is int:
        settings['model_max_length'] = length
    template = metadata.get('tokenizer.chat_template')
    if isinstance(template, str) and template:
        settings['chat_template'] = template
    write_json(folder / 'tokenizer_config.json', settings)


def _adds_bos(header: GgufHeader) -> bool:
    """Whether a text begins with the begin token, as llama.cpp decides."""
    value = header.metadata.get(f'{_PREFIX}add_bos_token')
    if isinstance(value, bool):
        return value
    return (
        header.metadata.get(f'{_PREFIX}model') == 'llama'
        or header.metadata.get(f'{_PREFIX}pre') == 'llama-bpe'
    )


def _token_types(header: GgufHeader, tokens: list[str]) -> list[int]:
    """Return the type of each token.

    Raises:
        ValueError: Their number differs from that of the tokens.
    """
    types = header.metadata.get(f'{_PREFIX}token_type')
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ValueError(
            f'{header.path} has {len(tokens):,} tokens, but not as many '
            'token types; download it again.'
        )
    return types


def _write_bpe(header: GgufHeader, tokens: list[str], folder: Path) -> None:
    """Write the ``tokenizer.json`` of a byte-level BPE.

    Raises:
        ValueError: The rule to split texts is not supported, or a merge is
            not of tokens of the vocabulary.
    """
    path, metadata = header.path, header.metadata
    rule = metadata.get(f'{_PREFIX}pre')
    if rule not in _SPLITTERS:
        raise ValueError(
            f'{path} splits texts by the rule {rule!r} (tokenizer.ggml.pre); '
            f'{", ".join(_SPLITTERS)} are supported: give the Hugging Face '
            'folder of this LLM.'
        )
    types = _token_types(header, tokens)
    merges = [
        tuple(merge.split(' '))
        for merge in metadata.get(f'{_PREFIX}merges') or []
    ]
    try:
        tokenizer = Tokenizer(
            models.BPE(
                {token: i for i, token in enumerate(tokens)},
                merges,
                ignore_merges=rule == 'llama-bpe',
            )
        )
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(
            f'{path} has a damaged tokenizer ({error}); download it again.'
        ) from error
    if rule in ('qwen2', 'deepseek-r1-qwen'):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _SPLITTERS[rule]()
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [
            AddedToken(token, special=special, normalized=False)
            for token, type_ in zip(tokens, types)
            if type_ == kind
        ]
        add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
        add(added)
    if _adds_bos(header):
        begin_id = metadata.get(f'{_PREFIX}bos_token_id')
        if type(begin_id) is not int or not 0 <= begin_id < len(tokens):
            raise ValueError(
                f'{path} adds a begin token to texts, but names none '
                '(tokenizer.ggml.bos_token_id); download it again.'
            )
        begin = tokens[begin_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f'{begin} $A',
            pair=f'{begin} $A {begin} $B',
            special_tokens=[(begin, begin_id)],
        )
    tokenizer.save(str(folder / 'tokenizer.json'))


def _write_sentencepiece(
    header: GgufHeader, tokens: list[str], folder: Path
) -> None:
    """Write the ``tokenizer.model`` of a SentencePiece model.

    The types of tokens have the numbers of SentencePiece.

    Raises:
        ValueError: Scores or types are missing, or the model is damaged.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    path, metadata = header.path, header.metadata
    types = _token_types(header, tokens)
    scores = metadata.get(f'{_PREFIX}scores')
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise ValueError(
            f'{path} has {len(tokens):,} tokens, but not as many scores; '
            'download it again.'
        )
    model: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore
    for token, score, kind in zip(tokens, scores, types):
        model.pieces.add(piece=token, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.byte_fallback = True
    trainer.vocab_size = len(tokens)
    for role, name in dict(unk='unknown', bos='bos', eos='eos').items():
        token_id = metadata.get(f'{_PREFIX}{name}_token_id')
        setattr(trainer, f'{role}_id', -1 if token_id is None else token_id)
    trainer.pad_id = -1
    normalizer = model.normalizer_spec
    normalizer.name = 'identity'
    normalizer.add_dummy_prefix = metadata.get(
        f'{_PREFIX}add_space_prefix', True
    )
    normalizer.remove_extra_whitespaces = False
    data = model.SerializeToString()
    try:
        SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise ValueError(
            f'{path} has a damaged tokenizer ({error}); download it again.'
        ) from error
    (folder / 'tokenizer.model').write_bytes(data)
