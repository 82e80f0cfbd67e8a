# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LLaMA's tokenizer, with the tokens that SentencePiece gives.

MiniGPT-4 was trained through SentencePiece. transformers reads the same
folder in other ways, depending on its version and on the folder's settings:
merges in another order, a dropped leading space (of 3,000 random strings
with many spaces 2,120 differed, with 5.17; none with 4.49), an endless
recursion on empty special tokens. So nothing but the vocabulary and the names
of the special tokens is taken from the folder.
"""

import json
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

from ..errors import printable
from ..regular_files import read_regular, read_text

_PROBES = (
    *('foo', ' foo', 'a  b', '\n c', '###Human: ', ' ###', 'x.###', '0 é'),
    *('</s>', 'a<unk> b', '<0x0A>', '[PAD]', '\t\x07', '①Ａ猫🙂', 'a▁ ▁b'),
)
_CLASSES = ('llamatokenizer', 'llamatokenizerfast')
_ROLES = ('bos_token', 'eos_token', 'unk_token', 'pad_token')
_FILES = (
    'tokenizer.model',
    'tokenizer.json',
    'tokenizer_config.json',
    'added_tokens.json',
    'special_tokens_map.json',
)


def tokenizer_folder(name_or_path: str) -> Path | None:
    """Find the folder that holds the tokenizer's files.

    Args:
        name_or_path: A folder, or a repository of the Hugging Face hub,
            whose files are fetched.

    Returns:
        The folder; None where the repository has no ``tokenizer.model`` or
        cannot be reached.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    from transformers.utils import cached_file

    found: dict[str, str | None] = {}
    for name in ('config.json', *_FILES):
        try:
            found[name] = cached_file(name_or_path, name)
        except (OSError, ValueError):
            found[name] = None
    model = found['tokenizer.model']
    return None if model is None else Path(model).parent


def load_llama_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a LLaMA folder.

    Texts give the tokens of SentencePiece with ``tokenizer.model``, whatever
    the settings ``legacy`` and ``use_fast`` say; control symbols and added
    tokens in a text (``</s>``, ``<unk>``, ``[PAD]``) are letters. Without a
    ``tokenizer.model`` the folder's ``tokenizer.json`` decides.

    The tokens of beginning, end and unknown text are those of
    ``tokenizer.model``; a folder may name another end only if it adds that
    token to the vocabulary.

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
    added = _added_tokens(folder)
    if (path := folder / 'tokenizer.model').is_file():
        backend, pieces = _of_sentencepiece(path)
        _check_vocabulary(folder, pieces)
        _add(backend, added, folder)
        _require_agreement(backend, pieces, path)
        own = {
            role: pieces.id_to_piece(i) if i >= 0 else None
            for role, i in (
                ('bos_token', pieces.bos_id()),
                ('eos_token', pieces.eos_id()),
                ('unk_token', pieces.unk_id()),
            )
        }
        return _wrap(backend, folder, own, len(pieces))
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
    return _wrap(backend, folder, own, 0)


def _is_llama(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in _FILES[:2]):
        return False
    named = _read_json(folder, 'tokenizer_config.json').get('tokenizer_class')
    if isinstance(named, str) and named:
        return named.lower() in _CLASSES
    return _read_json(folder, 'config.json').get('model_type') == 'llama' and (
        (folder / 'tokenizer.model').is_file()
    )


def _of_sentencepiece(path: Path) -> tuple[Tokenizer, SentencePieceProcessor]:
    """A backend with the vocabulary of a ``tokenizer.model``."""
    data = read_regular(path)
    try:
        if not data:
            raise RuntimeError('it is empty')
        pieces = SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise ValueError(
            f'{path} ({len(data):,} bytes) is no SentencePiece model; '
            'download it whole (a Git LFS pointer has 3 lines of text).'
        ) from error
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            _merges(pieces, vocabulary),
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
    return backend, pieces


def _merges(
    pieces: SentencePieceProcessor, vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
    """All pairs that make a piece, the likeliest piece first."""
    normal = [
        i
        for i in range(len(pieces))
        if not (
            pieces.is_control(i) or pieces.is_byte(i) or pieces.is_unknown(i)
        )
    ]
    merges = []
    for i in sorted(normal, key=pieces.get_score, reverse=True):
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
    model = _read_json(folder, 'tokenizer.json').get('model')
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


def _added_tokens(folder: Path) -> dict[int, str]:
    """Added tokens by their id, from every file that may name them."""
    named: list[tuple[str, Any, Any]] = [
        ('added_tokens.json', token, i)
        for token, i in _read_json(folder, 'added_tokens.json').items()
    ]
    config = _read_json(folder, 'tokenizer_config.json')
    named += [
        ('tokenizer_config.json', _content(token), i)
        for i, token in (config.get('added_tokens_decoder') or {}).items()
    ]
    listed = _read_json(folder, 'tokenizer.json').get('added_tokens') or []
    named += [('tokenizer.json', _content(t), t.get('id')) for t in listed]
    added: dict[int, str] = {}
    for file, token, number in named:
        try:
            number = int(number)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'{folder / file} gives the added token {token!r} the id '
                f'{number!r}; expected a number.'
            ) from error
        if not token:
            continue
        if added.setdefault(number, token) != token:
            raise ValueError(
                f'{folder / file} gives the id {number} to {token!r}, another '
                f'file of the folder to {added[number]!r}; correct the one '
                'that does not belong to the weights.'
            )
    return added


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
    backend: Tokenizer, pieces: SentencePieceProcessor, path: Path
) -> None:
    backend.encode_special_tokens = True
    for text in _PROBES:
        found = backend.encode(text, add_special_tokens=False).ids
        if found != pieces.encode(text):
            raise ValueError(
                f'{path} cuts {text!r} into {pieces.encode(text, str)}, '
                'which only SentencePiece itself can do: its settings are '
                'not those of LLaMA; remove tokenizer.model if the folder '
                'has a tokenizer.json that gives the right tokens.'
            )


def _wrap(
    backend: Tokenizer, folder: Path, own: dict[str, str | None], size: int
) -> Any:
    """A tokenizer of transformers.

    Args:
        backend: What cuts texts.
        folder: The folder, whose settings name special tokens.
        own: The special tokens of the vocabulary itself.
        size: Tokens that the folder may not give another role; 0 for none.
    """
    from transformers import PreTrainedTokenizerFast

    roles = dict(own)
    config = _read_json(folder, 'tokenizer_config.json')
    named = _read_json(folder, 'special_tokens_map.json') | config
    for role in _ROLES:
        token = _content(named.get(role))
        number = backend.token_to_id(token) if token else None
        if not token or token == roles.get(role):
            continue
        if number is not None and (number >= size or role == 'pad_token'):
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


def _content(token: Any) -> str:
    """The text of a special token, which may be an object; '' for none."""
    if isinstance(token, dict):
        token = token.get('content')
    return token if isinstance(token, str) else ''


def _read_json(folder: Path, name: str) -> dict:
    """A JSON object of the folder; an empty one where there is no file."""
    if not (folder / name).is_file():
        return {}
    try:
        content = json.loads(read_text(folder / name))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{folder / name} is no JSON file ({error}); download it again.'
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f'{folder / name} is no JSON object; download it again.'
        )
    return content
