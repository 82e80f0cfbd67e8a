# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The generation engine: answers that come and go, a token at a time."""

import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..prompts import TokenizedPrompt
from ..prompts.tokenization import encode_answer
from .detokenizer import Detokenizer
from .hf_generate import generate
from .model_runner import ModelRunner, digest
from .prefix_cache import CachedPrefix, PrefixCache
from .ranking import rank_branches, rank_one_by_one
from .request import GenerationRequest
from .sampling import NAN_SCORES, Sampler, SamplingParams

if TYPE_CHECKING:
    from ..models.minigpt4 import MiniGPT4

# those that wait are admitted when an eighth of the slots is free, for images
# and prompts are read faster together; after 8 steps they are in any case
_TOGETHER = 8
_PATIENCE = 8


class Engine:
    """Answers many requests, one token of all of them at a time.

    A request is admitted when a slot is free and leaves when it ends; the
    others go on. Keys and values of what was read and said are kept, and
    of a prompt only that is computed which comes after the longest beginning
    that it has in common with one of them. Features of images are kept too.

    One thread steps it; ``inference.worker`` has one for many callers.

    Args:
        model: The model. Its LLM stays where it is from now on.
        slots: Answers that are written at once.
        stored_tokens: Tokens of ended answers and their prompts that are
            kept; 0 keeps none.
        compile: Whether to compile the pass of one token. It takes minutes,
            and pays for long use.

    Attributes:
        has_worker: Whether a thread of its own steps it.
    """

    def __init__(
        self,
        model: 'MiniGPT4',
        slots: int = 8,
        stored_tokens: int = 4096,
        compile: bool = False,
    ) -> None:
        if slots < 1:
            raise ValueError(f'slots is {slots}; expected at least 1.')
        self.model = model
        self.slots = slots
        self.has_worker = False
        self._reader = ModelRunner(model, compile)
        self._pasts = PrefixCache(self._reader.cache, stored_tokens)
        self._waiting: deque[GenerationRequest] = deque()
        self._rows: list[
            GenerationRequest
        ] = []  # each in the slot of its place
        self._held = 0  # steps since a slot was free that somebody waits for
        self._queue_lock = threading.Lock()  # of those that wait
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """Requests that have not been admitted."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._rows)

    def submit(
        self, row: TokenizedPrompt, images: Sequence[Tensor] = (), **settings
    ) -> GenerationRequest:
        """Ask for an answer, from any thread.

        Args:
            row: The tokenised prompt.
            images: ``(3, H, W)`` uint8, one for each image slot.
            settings: Over the model's own; see :class:`SamplingParams`.

        Raises:
            ValueError: Images and slots do not match, the prompt is empty or
                too long, or a setting is unknown.
        """
        self._check(row, images)
        keys = self._reader.keys(row, images)
        return self._enter(keys, None, list(images), settings)

    def submit_embedded(
        self, embeddings: Tensor, **settings
    ) -> GenerationRequest:
        """Ask for an answer to ``(T, hidden_size)`` embeddings.

        Nothing of it is kept or taken from what is kept.
        """
        keys = [0] * len(embeddings)
        return self._enter(keys, embeddings, [], settings)

    def _enter(self, keys, embeddings, images, given) -> GenerationRequest:
        settings = SamplingParams.of(self.model.generation, given)
        llm, tokenizer = self.model.decoder.llm, self.model.decoder.tokenizer
        if not keys:
            raise ValueError('the prompt has no tokens; expected one or more.')
        limit = getattr(llm.config, 'max_position_embeddings', None)
        if limit and len(keys) + settings.max_new_tokens > limit:
            raise ValueError(
                f'a prompt of {len(keys)} tokens and an answer of up to '
                f'{settings.max_new_tokens} exceed the {limit} tokens that '
                'the LLM takes; shorten the prompt or lower max_new_tokens.'
            )
        stop = (*self.model.template.stop, *settings.stop)
        generation = GenerationRequest(
            self,
            settings,
            keys,
            embeddings,
            images,
            Detokenizer(tokenizer, stop, settings.min_new_tokens),
            Sampler(settings, tokenizer.eos_token_id, llm.device),
        )
        with self._queue_lock:
            self._waiting.append(generation)
        return generation

    def _check(self, row: TokenizedPrompt, images: Sequence[Tensor]) -> None:
        if row.num_images != len(images):
            raise ValueError(
                f'{row.num_images} image slots in the prompt but '
                f'{len(images)} images were given; write <ImageHere> once '
                'per image.'
            )
        if self.model.backbone is not None:
            size = self.model.image_size
            for image in images:
                shape, dtype = tuple(image.shape), image.dtype
                if shape != (3, size, size) or dtype != torch.uint8:
                    raise ValueError(
                        f'an image is {shape} of {dtype}; expected '
                        f'(3, {size}, {size}) of torch.uint8.'
                    )

    def step(self) -> bool:
        """Admit what waits, then write one token of every running answer.

        What goes wrong is told to those that asked for it, by their
        generations; a fault of one request does not touch the others.

        Returns:
            Whether there is more to do.
        """
        with self._lock, torch.inference_mode():
            try:
                gone = [row for row in self._rows if row.cancelled]
                self._leave(gone, 'cancelled')
                self._admit()
                if self._rows:
                    self._write()
            except Exception as error:  # nobody may wait for ever
                for row in self._rows:
                    row.finish('error', error)
                self._rows = []
                self._pasts.forget()
            return bool(self._rows or self._waiting)

    def rank(
        self,
        row: TokenizedPrompt,
        images: Sequence[Tensor],
        candidates: Sequence[str],
        end: bool = True,
    ) -> list[float]:
        """How likely each of some answers is.

        Images and prompt are read once, the answers side by side.

        Args:
            row: The tokenised prompt.
            images: As for :meth:`submit`.
            candidates: The answers.
            end: Whether the template's end symbol belongs to them, as in
                training.

        Returns:
            The mean log-likelihood of each answer's own tokens, in nats. The
            official ``multi_select`` divides by the length of the longest
            line instead, so that short answers win.

        Raises:
            ValueError: A candidate has no tokens, or as for :meth:`submit`.
        """
        tokenizer = self.model.decoder.tokenizer
        closing = self.model.template.end if end else ''
        branches = [
            encode_answer(tokenizer, text, closing) for text in candidates
        ]
        if not all(branches):
            raise ValueError(
                f'candidate {branches.index([]) + 1} of {len(branches)} has '
                'no tokens; expected some text in each.'
            )
        self._check(row, images)
        keys = self._reader.keys(row, images)
        with self._lock, torch.inference_mode():
            seen = dict(zip(map(digest, images), images, strict=True))
            self._reader.see(seen)
            if not self._reader.fits:
                return rank_one_by_one(self._reader, keys, branches)
            slot = len(self._rows)
            length = len(keys) + sum(map(len, branches))
            self._reader.reserve(slot + 1, length + 1)
            start = self._pasts.enter(keys, slot, self._running())
            scores = rank_branches(self._reader, keys, start, branches, slot)
            self._pasts.keep(keys, slot, leave_in=True)
            return scores

    def _running(self) -> list[CachedPrefix]:
        """What the running rows have in their slots."""
        return [
            CachedPrefix(row.keys[: row.cached], slot)
            for slot, row in enumerate(self._rows)
            if row.embeddings is None
        ]

    def _next(self) -> list[GenerationRequest]:
        """Those that wait and have a slot now; the cancelled are let go."""
        with self._queue_lock:
            gone = [row for row in self._waiting if row.cancelled]
            for row in gone:
                self._waiting.remove(row)
            free = self.slots - len(self._rows)
            number = min(free, len(self._waiting))
            together = min(len(self._waiting), self.slots // _TOGETHER)
            if 0 < number < together and self._held < _PATIENCE:
                self._held += 1
                number = 0
            elif number:
                self._held = 0
            new = [self._waiting.popleft() for _ in range(number)]
        for row in gone:
            row.finish('cancelled')
        return new

    def _admit(self) -> None:
        """Read the prompts of those that wait, as far as there are slots."""
        new = []
        for row in self._next():
            if row.settings.num_beams > 1 or not self._reader.fits:
                self._answer_whole(row)
            else:
                new.append(row)
        if not new:
            return
        # those of about one length are read together
        new.sort(key=lambda row: len(row.keys))
        slots = len(self._rows) + len(new)
        try:
            self._reader.reserve(slots, len(new[-1].keys) + 1)
        except Exception as error:  # memory, say
            for row in new:
                row.finish('error', error)
            return
        for row in new:
            if row.embeddings is None:
                row.cached = self._pasts.enter(
                    row.keys, len(self._rows), self._running()
                )
                row.reused_tokens = row.cached
            else:
                self._pasts.free(len(self._rows))
            self._rows.append(row)
        self._see_and_read(new)

    def _see_and_read(self, rows: list[GenerationRequest]) -> None:
        """Read prompts together; where that fails, each by itself."""
        try:
            self._see(rows)
            for group in _alike(rows):
                self._read(group)
        except Exception as error:
            unread = [row for row in rows if not row.token_ids]
            unread = [row for row in unread if not row.finished]
            if not unread:
                raise  # what was read is not to blame
            if len(unread) == 1:
                self._leave(unread, 'error', error)
                return
            for row in unread:
                self._see_and_read([row])

    def _see(self, rows: Sequence[GenerationRequest]) -> None:
        wanted = {}
        for row in rows:
            unread = set(row.keys[row.cached :])
            for image in row.images:
                number = digest(image)
                if number in unread:
                    wanted[number] = image
        if wanted:
            self._reader.see(wanted)

    def _read(self, rows: list[GenerationRequest]) -> None:
        """Read what is new of some prompts; choose their first tokens."""
        prompts = [
            self._reader.embed(row.keys, row.cached)
            if row.embeddings is None
            else self.model.decoder.enter(row.embeddings)
            for row in rows
        ]
        scores = self._reader.read(
            prompts,
            [row.cached for row in rows],
            self._rows.index(rows[0]),
        )
        for row in rows:
            row.cached = len(row.keys)
        self._choose(rows, scores)

    def _write(self) -> None:
        """Read the latest token of every row; choose the next."""
        rows = list(self._rows)
        places = [row.cached for row in rows]
        try:
            self._reader.reserve(len(rows), max(places) + 1)
            scores = self._reader.next(
                [row.token_ids[-1] for row in rows], places
            )
        except Exception as error:  # memory, say: nobody can go on
            self._leave(rows, 'error', error)
            return
        for row in rows:
            row.cached += 1
        self._choose(rows, scores)

    def _choose(self, rows: list[GenerationRequest], scores: Tensor) -> None:
        """Add a token to each row; let those that end leave."""
        highest = scores.argmax(-1, keepdim=True)  # NaN, where there is one
        usable = (~scores.gather(-1, highest).isnan()).flatten().tolist()
        best = highest.flatten().tolist()
        eos = self.model.decoder.tokenizer.eos_token_id
        ended: list[tuple[GenerationRequest, str, Exception | None]] = []
        for index, row in enumerate(rows):
            try:
                token = best[index]
                if not usable[index]:
                    raise ValueError(NAN_SCORES)
                if not row.sampler.plain:
                    token = row.sampler(scores[index], row.token_ids)
                if token == eos:
                    ended.append((row, 'stop', None))
                    continue
                row.token_ids.append(token)
                row.keys.append(token)
                row.say(row.stream.add(token))
                if row.stream.stopped:
                    ended.append((row, 'stop', None))
                elif len(row.token_ids) >= row.settings.max_new_tokens:
                    ended.append((row, 'length', None))
            except Exception as error:
                ended.append((row, 'error', error))
        for row, reason, cause in ended:
            self._leave([row], reason, cause)

    def _leave(
        self,
        rows: Sequence[GenerationRequest],
        reason: str,
        error: Exception | None = None,
    ) -> None:
        """End some rows; the last ones move into the gaps."""
        for row in rows:
            slot = self._rows.index(row)
            last = self._rows.pop()
            if reason != 'error' and row.embeddings is None:
                known = row.keys[: row.cached]
                self._pasts.keep(known, slot, leave_in=last is row)
            if last is not row:
                self._reader.cache.copy(len(self._rows), slot, last.cached)
                self._rows[slot] = last
            row.finish(reason, error)

    def _answer_whole(self, row: GenerationRequest) -> None:
        """Let transformers write an answer."""
        decoder, settings = self.model.decoder, row.settings
        try:
            self._see([row])
            embeddings = row.embeddings
            if embeddings is None:
                embeddings = self._reader.embed(row.keys, 0)
            embeddings = decoder.enter(embeddings)[None]
            (answer,) = generate(
                decoder.llm,
                decoder.tokenizer,
                embeddings,
                embeddings.new_ones(embeddings.shape[:2]).long(),
                (*self.model.template.stop, *settings.stop),
                **settings.of_transformers(),
            )
        except Exception as error:
            row.finish('error', error)
            return
        row.token_ids = answer.token_ids
        row.say(answer.text)
        row.finish('stop' if answer.finished else 'length')


def _alike(rows: Sequence[GenerationRequest]) -> list[list[GenerationRequest]]:
    """Neighbours whose new parts are of about one length."""
    groups: list[list[GenerationRequest]] = []
    for row in rows:
        group = [*groups[-1], row] if groups else [row]
        lengths = [len(row.keys) - row.cached for row in group]
        if groups and max(lengths) * len(lengths) <= 1.5 * sum(lengths):
            groups[-1] = group
        else:
            groups.append([row])
    return groups
