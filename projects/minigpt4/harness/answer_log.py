# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers on disk, so that a run that was interrupted continues.

The response cache of lmms-eval stores answers only when all of them are
complete, so it does not survive an interruption.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from ..generation.prefix_cache import image_digest
from ..models import MiniGPT4
from ..prompts import TokenizedPrompt
from ..utils.atomic import make_folder
from ..utils.errors import printable
from ..utils.regular_files import read_regular


class AnswerLog:
    """A folder of answers, one file for each process of a run.

    The key of an answer is made of what the model receives, so an answer is
    used again only for the same prompt, images, settings and weights.

    Args:
        folder: The folder, which is created; None stores nothing.
        model: The model that answers.
        rank: Number of this process.

    Raises:
        ValueError: The folder holds a file that is not of answers.
        OSError: A file cannot be read or written.
    """

    def __init__(
        self, folder: Path | None, model: MiniGPT4, rank: int = 0
    ) -> None:
        self._answers: dict[str, Any] = {}
        self._file: IO[str] | None = None
        if folder is None:
            return
        self._model = model_digest(model)
        make_folder(folder)
        own = folder / f'answers_{rank}.jsonl'
        for path in sorted(folder.glob('answers_*.jsonl')):
            self._read(path)
        if own.exists():
            _cut_incomplete_line(own)
        self._file = open(own, 'a', encoding='utf-8')

    def __len__(self) -> int:
        """Number of answers that are known."""
        return len(self._answers)

    def key(
        self,
        kind: str,
        prompt: TokenizedPrompt,
        images: Sequence[Tensor],
        settings: Any,
    ) -> str:
        """Return the key of an answer; '' if nothing is stored.

        Args:
            kind: Kind of the request.
            prompt: The tokenised prompt.
            images: ``(3, H, W)`` uint8, one for each image slot.
            settings: What the answer depends on otherwise, as JSON has it.
        """
        if self._file is None:
            return ''
        parts = [
            self._model,
            kind,
            prompt.ids,
            list(map(image_digest, images)),
            settings,
        ]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def get(self, key: str) -> Any:
        """Return an answer; None if it is not known."""
        return self._answers.get(key)

    def add(self, key: str, answer: Any) -> None:
        """Store an answer before the next one is computed."""
        if self._file is None or not key:
            return
        self._answers[key] = answer
        row = dict(key=key, answer=answer)
        self._file.write(json.dumps(row) + '\n')
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, path: Path) -> None:
        # behind the last line break is a row that is being written, or was
        # not written completely
        lines = read_regular(path).split(b'\n')[:-1]
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                self._answers[row['key']] = row['answer']
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f'{printable(str(path))}: line {number} is not an answer '
                    'of this project; expected {"key": ..., "answer": ...}. '
                    'Give another folder as answers.'
                ) from error


def model_digest(model: MiniGPT4) -> str:
    """Hash the trained weights and the fingerprint of the frozen ones."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            data = tensor.detach().cpu().contiguous().float().numpy()
            digest.update(data.tobytes())
    return digest.hexdigest()


def _cut_incomplete_line(path: Path) -> None:
    """Remove the end of a file that was not written completely."""
    with open(path, 'r+b') as file:
        data = file.read()
        complete = data.rfind(b'\n') + 1
        if complete < len(data):
            file.truncate(complete)
            os.fsync(file.fileno())
