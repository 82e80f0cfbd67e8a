# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Load LLaMA's tokenizer with exactly the token ids of SentencePiece.

MiniGPT-4 was trained with SentencePiece. transformers reads the same folder
differently, depending on its version and on the folder's settings: merges in
another order, a dropped leading space (of 3,000 random strings with many
spaces 2,120 differed with 5.17, none with 4.49), an infinite recursion on
empty special tokens. So only the vocabulary and the names of the special
tokens are read from the folder.
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
    TOKENIZER_FILES,
    added_tokens,
    read_chat_template,
    read_settings,
    token_text,
)

_TEST_TEXTS = (
    *('foo', ' foo', 'a  b', '\n c', '###Human: ', ' ###', 'x.###', '0 é'),
    *('</s>', 'a<unk> b', '<0x0A>', '[PAD]', '\t\x07', '①Ａ猫🙂', 'a▁ ▁b'),
)
_LLAMA_CLASSES = ('llamatokenizer', 'llamatokenizerfast')
_ROLES = ('bos_token', 'eos_token', 'unk_token', 'pad_token')


def load_llama_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a LLaMA folder.

    Texts get the token ids of SentencePiece with ``tokenizer.model``; the
    settings ``legacy`` and ``use_fast`` are ignored. Control symbols and
    added tokens in a text (``</s>``, ``<unk>``, ``[PAD]``) are plain text.
    Without a ``tokenizer.model`` the folder's ``tokenizer.json`` is used.

    The begin, end and unknown tokens are those of ``tokenizer.model``, also
    if the folder's settings swap them or leave them empty. The settings may
    replace them with another token of the vocabulary, e.g. ``<|im_end|>``.

    Args:
        folder: The LLM's folder.

    Returns:
        A fast tokenizer of transformers; None if it is not LLaMA's.

    Raises:
        ValueError: The folder's files contradict each other, or the token
            ids would differ from SentencePiece's.
    """
    if not _is_llama(folder):
        return None
    added = added_tokens(folder)
    if (path := folder / 'tokenizer.model').is_file():
        pieces = _read_pieces(path)
        _check_vocabulary(folder, pieces)
        merges = _merges(pieces)
        backend = _build_backend(pieces, merges)
        _add_special_tokens(backend, added, folder)
        merged = {left + right for left, right in merges}
        # SentencePiece splits text at pieces that no merge makes
        unmerged = [
            pieces.id_to_piece(i)
            for i in _text_pieces(pieces)
            if len(pieces.id_to_piece(i)) > 1
            and pieces.id_to_piece(i) not in merged
            and i not in added
        ]
        _check_token_ids(backend, pieces, path, unmerged)
        special = {
            role: pieces.id_to_piece(i) if i >= 0 else None
            for role, i in (
                ('bos_token', pieces.bos_id()),
                ('eos_token', pieces.eos_id()),
                ('unk_token', pieces.unk_id()),
            )
        }
        return _wrap(backend, folder, special)
    path = folder / 'tokenizer.json'
    try:
        backend = Tokenizer.from_buffer(read_regular(path))
    except ValueError as error:
        raise ValueError(
            f'{path} is no file of the tokenizers library ({error}); '
            'download it again.'
        ) from error
    _add_special_tokens(backend, added, folder)
    special = {
        role: token if backend.token_to_id(token) is not None else None
        for role, token in zip(_ROLES, ('<s>', '</s>', '<unk>'), strict=False)
    }
    return _wrap(backend, folder, special)


def _is_llama(folder: Path) -> bool:
    """Whether a folder has LLaMA's tokenizer, by its settings and files."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return False
    config = read_settings(folder, 'tokenizer_config.json')
    class_name = config.get('tokenizer_class')
    if isinstance(class_name, str) and class_name.lower() in _LLAMA_CLASSES:
        return True
    path = folder / 'tokenizer.model'
    if not path.is_file() or (
        read_settings(folder, 'config.json').get('model_type') != 'llama'
    ):
        return False
    # another class, e.g. TokenizersBackend of transformers 5: it is LLaMA's if
    # the file is a SentencePiece model, which that of LLaMA 3 is not
    return not class_name or read_regular(path)[:1] == b'\n'


def _read_pieces(path: Path) -> SentencePieceProcessor:
    """Read a SentencePiece model.

    Raises:
        ValueError: It is another file.
    """
    data = read_regular(path)
    try:
        if not data:
            raise RuntimeError('it is empty')
        return SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise ValueError(
            f'{path} ({len(data):,} bytes) is no SentencePiece model; '
            'download it again (a Git LFS pointer has 3 lines of text).'
        ) from error


def _build_backend(
    pieces: SentencePieceProcessor, merges: list[tuple[str, str]]
) -> Tokenizer:
    """Build a BPE tokenizer with the vocabulary of a ``tokenizer.model``."""
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


def _text_pieces(pieces: SentencePieceProcessor) -> list[int]:
    """Return the ids of all pieces but control symbols and bytes."""
    return [
        i
        for i in range(len(pieces))
        if not (
            pieces.is_control(i) or pieces.is_byte(i) or pieces.is_unknown(i)
        )
    ]


def _merges(pieces: SentencePieceProcessor) -> list[tuple[str, str]]:
    """Return all pairs that merge to a piece, the likeliest piece first."""
    vocabulary = {pieces.id_to_piece(i) for i in range(len(pieces))}
    merges = []
    for i in sorted(_text_pieces(pieces), key=pieces.get_score, reverse=True):
        piece = pieces.id_to_piece(i)
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((left, right))
    return merges


def _check_vocabulary(folder: Path, pieces: SentencePieceProcessor) -> None:
    """Refuse a ``tokenizer.json`` with another vocabulary than the model."""
    if not (folder / 'tokenizer.json').is_file():
        return
    model = read_settings(folder, 'tokenizer.json').get('model')
    vocabulary = model.get('vocab') if isinstance(model, dict) else None
    expected = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    if isinstance(vocabulary, dict) and vocabulary != expected:
        differing = next(
            (
                token
                for token in vocabulary
                if expected.get(token) != vocabulary[token]
            ),
            None,
        )
        example = '' if differing is None else f', e.g. {differing!r}'
        raise ValueError(
            f'tokenizer.json and tokenizer.model in {folder} have different '
            f'vocabularies ({len(vocabulary)} and {len(expected)} entries'
            f'{printable(example)}); remove the one that does not belong to '
            'the weights.'
        )


def _add_special_tokens(
    backend: Tokenizer, added: dict[int, str], folder: Path
) -> None:
    """Add tokens as special tokens, which no text is encoded to."""
    for token_id, token in sorted(added.items()):
        backend.add_special_tokens(
            [AddedToken(token, special=True, normalized=False)]
        )
        found = backend.token_to_id(token)
        if found != token_id:
            raise ValueError(
                f'the folder {folder} gives the added token {token!r} the id '
                f'{token_id}, but its vocabulary gives it {found}; use the '
                'tokenizer files that belong to the weights.'
            )


def _check_token_ids(
    backend: Tokenizer,
    pieces: SentencePieceProcessor,
    path: Path,
    extra_pieces: list[str],
) -> None:
    """Refuse a model whose texts the backend encodes differently.

    Args:
        backend: The backend.
        pieces: The SentencePiece model.
        path: Its file.
        extra_pieces: Pieces to test in addition to the usual texts.
    """
    backend.encode_special_tokens = True
    texts = [f'a{piece}b'.replace('▁', ' ') for piece in extra_pieces]
    for text in (*_TEST_TEXTS, *texts):
        found = backend.encode(text, add_special_tokens=False).ids
        if found != pieces.encode(text):
            raise ValueError(
                f'{path} cuts {text!r} into '
                f'{pieces.encode(text, out_type=str)}, which only '
                'SentencePiece itself can do: its settings are '
                'not those of LLaMA; remove tokenizer.model if the folder '
                'has a tokenizer.json that gives the right tokens.'
            )


def _wrap(
    backend: Tokenizer, folder: Path, special: dict[str, str | None]
) -> Any:
    """Wrap a backend in a tokenizer of transformers.

    Args:
        backend: A tokenizer of the tokenizers library.
        folder: The folder, whose settings name special tokens.
        special: The special tokens of the vocabulary itself by role; the
            settings cannot swap them.

    Raises:
        ValueError: There is no begin or no end token.
    """
    from transformers import PreTrainedTokenizerFast

    roles = dict(special)
    config = read_settings(folder, 'tokenizer_config.json')
    settings = read_settings(folder, 'special_tokens_map.json') | config
    for role in _ROLES:
        token = token_text(settings.get(role))
        if not token or token == roles.get(role):
            continue
        known = backend.token_to_id(token) is not None
        if known and (role == 'pad_token' or token not in special.values()):
            roles[role] = token
        elif role != 'pad_token':
            print_log(
                f'the settings of the tokenizer in {folder} name the {role} '
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
        # for add_special_tokens=True, as LLaMA's tokenizer does
        backend.post_processor = processors.TemplateProcessing(
            single=f'{bos} $A',
            pair=f'{bos} $A {bos} $B',
            special_tokens=[(bos, backend.token_to_id(bos))],
        )
    length = config.get('model_max_length')
    arguments: dict[str, Any] = {
        role: token for role, token in roles.items() if token
    }
    if isinstance(length, (int, float)) and 0 < length:
        arguments['model_max_length'] = length
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        name_or_path=str(folder),
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        chat_template=read_chat_template(folder),
        **arguments,
    )
