# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LLaMA's tokenizer, with the tokens that SentencePiece gives.

MiniGPT-4 was trained through SentencePiece. transformers reads the same
folder in other ways, depending on its version and on the folder's settings:
merges in another order, a dropped leading space (of 3,000 random strings
with many spaces 2,120 differed, with 5.17; none with 4.49), an endless
recursion on empty special tokens. So nothing but the vocabulary and the names
of the special tokens is taken from the folder.
"""

import logging
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from sentencepiece import SentencePieceProcessor
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
)

from ..utils.errors import printable
from ..utils.regular_files import read_regular
from .tokenizer_files import (
    TOKENIZERS,
    added_tokens,
    read_settings,
    token_text,
)

_PROBES = (
    *('foo', ' foo', 'a  b', '\n c', '###Human: ', ' ###', 'x.###', '0 é'),
    *('</s>', 'a<unk> b', '<0x0A>', '[PAD]', '\t\x07', '①Ａ猫🙂', 'a▁ ▁b'),
)
_CLASSES = ('llamatokenizer', 'llamatokenizerfast')
_ROLES = ('bos_token', 'eos_token', 'unk_token', 'pad_token')


def load_llama_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a LLaMA folder.

    Texts give the tokens of SentencePiece with ``tokenizer.model``, whatever
    the settings ``legacy`` and ``use_fast`` say; control symbols and added
    tokens in a text (``</s>``, ``<unk>``, ``[PAD]``) are letters. Without a
    ``tokenizer.model`` the folder's ``tokenizer.json`` decides.

    The tokens of beginning, end and unknown text are those of
    ``tokenizer.model``, also where the folder exchanges them with each other
    or leaves them empty. Another token of the vocabulary, such as
    ``<|im_end|>``, may take their place.

    Args:
        folder: The LLM's folder.

    Returns:
        A fast tokenizer of transformers; None for another family.

    Raises:
        ValueError: The folder's files contradict each other, or the tokens
            would not be SentencePiece's.
    """
    if not _is_llama(folder):
        return None
    added = added_tokens(folder)
    if (path := folder / 'tokenizer.model').is_file():
        pieces = _read_pieces(path)
        _check_vocabulary(folder, pieces)
        merges = _merges(pieces)
        backend = _of_sentencepiece(pieces, merges)
        _add(backend, added, folder)
        made = {left + right for left, right in merges}
        # a piece that no merge makes is one that SentencePiece cuts out first
        whole = [
            pieces.id_to_piece(i)
            for i in _words(pieces)
            if len(pieces.id_to_piece(i)) > 1
            and pieces.id_to_piece(i) not in made
            and i not in added
        ]
        _require_agreement(backend, pieces, path, whole)
        own = {
            role: pieces.id_to_piece(i) if i >= 0 else None
            for role, i in (
                ('bos_token', pieces.bos_id()),
                ('eos_token', pieces.eos_id()),
                ('unk_token', pieces.unk_id()),
            )
        }
        return _wrap(backend, folder, own)
    path = folder / 'tokenizer.json'
    try:
        backend = Tokenizer.from_buffer(read_regular(path))
    except ValueError as error:
        raise ValueError(
            f'{path} is no file of the tokenizers library ({error}); '
            'download it whole.'
        ) from error
    _add(backend, added, folder)
    own = {
        role: token if backend.token_to_id(token) is not None else None
        for role, token in zip(_ROLES, ('<s>', '</s>', '<unk>'), strict=False)
    }
    return _wrap(backend, folder, own)


def _is_llama(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return False
    config = read_settings(folder, 'tokenizer_config.json')
    named = config.get('tokenizer_class')
    if isinstance(named, str) and named.lower() in _CLASSES:
        return True
    path = folder / 'tokenizer.model'
    if not path.is_file() or (
        read_settings(folder, 'config.json').get('model_type') != 'llama'
    ):
        return False
    # some other class (transformers 5 writes TokenizersBackend): LLaMA's, if
    # the file is SentencePiece's; that of LLaMA 3 is another format
    return not named or read_regular(path)[:1] == b'\n'


def _read_pieces(path: Path) -> SentencePieceProcessor:
    data = read_regular(path)
    try:
        if not data:
            raise RuntimeError('it is empty')
        return SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise ValueError(
            f'{path} ({len(data):,} bytes) is no SentencePiece model; '
            'download it whole (a Git LFS pointer has 3 lines of text).'
        ) from error


def _of_sentencepiece(
    pieces: SentencePieceProcessor, merges: list[tuple[str, str]]
) -> Tokenizer:
    """A backend with the vocabulary of a ``tokenizer.model``."""
    backend = Tokenizer(
        models.BPE(
            {pieces.id_to_piece(i): i for i in range(len(pieces))},
            merges,
            unk_token=pieces.id_to_piece(pieces.unk_id()),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list = [normalizers.Replace(' ', '▁')]
    first = pieces.encode('foo', out_type=str)[:1]
    if first and first[0].startswith('▁'):
        steps.insert(0, normalizers.Prepend('▁'))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace('▁', ' '),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(' ', len(steps) - 1, 0),
        ]
    )
    backend.add_special_tokens(
        [
            AddedToken(pieces.id_to_piece(i), special=True, normalized=False)
            for i in range(len(pieces))
            if pieces.is_control(i) or pieces.is_unknown(i)
        ]
    )
    return backend


def _words(pieces: SentencePieceProcessor) -> list[int]:
    """Pieces of text: no control symbols, no bytes."""
    return [
        i
        for i in range(len(pieces))
        if not (
            pieces.is_control(i) or pieces.is_byte(i) or pieces.is_unknown(i)
        )
    ]


def _merges(pieces: SentencePieceProcessor) -> list[tuple[str, str]]:
    """All pairs that make a piece, the likeliest piece first."""
    vocabulary = {pieces.id_to_piece(i) for i in range(len(pieces))}
    merges = []
    for i in sorted(_words(pieces), key=pieces.get_score, reverse=True):
        piece = pieces.id_to_piece(i)
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((left, right))
    return merges


def _check_vocabulary(folder: Path, pieces: SentencePieceProcessor) -> None:
    """Refuse a ``tokenizer.json`` with other words than the model."""
    if not (folder / 'tokenizer.json').is_file():
        return
    model = read_settings(folder, 'tokenizer.json').get('model')
    words = model.get('vocab') if isinstance(model, dict) else None
    ours = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    if isinstance(words, dict) and words != ours:
        differing = next(
            (word for word in words if ours.get(word) != words[word]), None
        )
        example = '' if differing is None else f', e.g. {differing!r}'
        raise ValueError(
            f'tokenizer.json and tokenizer.model in {folder} have different '
            f'vocabularies ({len(words)} and {len(ours)} entries'
            f'{printable(example)}); remove the one that does not belong to '
            'the weights.'
        )


def _add(backend: Tokenizer, added: dict[int, str], folder: Path) -> None:
    """Add tokens as special ones, which no text becomes."""
    for number, token in sorted(added.items()):
        backend.add_special_tokens(
            [AddedToken(token, special=True, normalized=False)]
        )
        found = backend.token_to_id(token)
        if found != number:
            raise ValueError(
                f'the folder {folder} gives the added token {token!r} the id '
                f'{number}, but its vocabulary gives it {found}; use the '
                'tokenizer files that belong to the weights.'
            )


def _require_agreement(
    backend: Tokenizer,
    pieces: SentencePieceProcessor,
    path: Path,
    whole: list[str],
) -> None:
    """Refuse a model whose texts the backend cuts otherwise.

    Args:
        backend: The backend.
        pieces: The SentencePiece model.
        path: Its file.
        whole: Pieces to try besides the usual texts.
    """
    backend.encode_special_tokens = True
    tried = [f'a{piece}b'.replace('▁', ' ') for piece in whole]
    for text in (*_PROBES, *tried):
        found = backend.encode(text, add_special_tokens=False).ids
        if found != pieces.encode(text):
            raise ValueError(
                f'{path} cuts {text!r} into '
                f'{pieces.encode(text, out_type=str)}, which only '
                'SentencePiece itself can do: its settings are '
                'not those of LLaMA; remove tokenizer.model if the folder '
                'has a tokenizer.json that gives the right tokens.'
            )


def _wrap(backend: Tokenizer, folder: Path, own: dict[str, str | None]) -> Any:
    """A tokenizer of transformers.

    Args:
        backend: What cuts texts.
        folder: The folder, whose settings name special tokens.
        own: The special tokens of the vocabulary itself, which the folder
            may not exchange with each other.
    """
    from transformers import PreTrainedTokenizerFast

    roles = dict(own)
    config = read_settings(folder, 'tokenizer_config.json')
    named = read_settings(folder, 'special_tokens_map.json') | config
    for role in _ROLES:
        token = token_text(named.get(role))
        if not token or token == roles.get(role):
            continue
        known = backend.token_to_id(token) is not None
        if known and (role == 'pad_token' or token not in own.values()):
            roles[role] = token
        elif role != 'pad_token':
            print_log(
                f'the tokenizer in {folder} is said to have the {role} '
                f'{printable(token)!r}; {roles.get(role)!r} of its '
                'vocabulary is used instead.',
                logger='current',
                level=logging.WARNING,
            )
    missing = [role for role in _ROLES[:2] if roles.get(role) is None]
    if missing:
        raise ValueError(
            f'the tokenizer in {folder} has no {" and no ".join(missing)}; '
            'name them in tokenizer_config.json.'
        )
    if bos := roles['bos_token']:
        # with add_special_tokens, as LLaMA's tokenizer does
        backend.post_processor = processors.TemplateProcessing(
            single=f'{bos} $A',
            pair=f'{bos} $A {bos} $B',
            special_tokens=[(bos, backend.token_to_id(bos))],
        )
    length = config.get('model_max_length')
    settings: dict[str, Any] = {
        role: token for role, token in roles.items() if token
    }
    if isinstance(length, (int, float)) and 0 < length:
        settings['model_max_length'] = length
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=str(folder),
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **settings,
    )
