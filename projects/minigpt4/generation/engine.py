# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The generation engine: continuous batching of requests."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import MiniGPT4
from ..prompts import TokenizedPrompt, answer_segment
from ..prompts.tokenization import encode_segment
from .hf_generate import hf_generate
from .logprobs import token_logprobs
from .model_runner import ModelRunner
from .prefix_cache import CachedPrefix, PrefixCache
from .ranking import AnswerScore, rank_branches, rank_one_by_one
from .request import GenerationRequest
from .request_builder import embeddings_request, prompt_request
from .request_queue import RequestQueue, split_shared_prompts
from .sampler import choose_tokens

# a request that ended: its finish reason, and its error
_Ended = tuple[GenerationRequest, str, Exception | None]


class Engine:
    """Answers many requests, one token of each per step.

    A request starts when a KV slot is free and releases it when it ends; the
    other requests continue. K and V of ended requests stay in a prefix cache,
    so only the tokens behind the longest cached prefix of a prompt are
    computed. Features of recent images are stored as well.

    One thread at a time runs its steps; :class:`~.worker.EngineWorker` is a
    thread for many callers.

    Args:
        model: The model. Its LLM has to stay on its device from now on.
        slots: The most requests that run at the same time.
        stored_tokens: The most tokens in the prefix cache; 0 stores none.
        compile: Whether to compile the decode pass, which takes minutes;
            useful for long runs.

    Attributes:
        runner: Runs the model; ``runner.stats`` counts what it computed.
        prefix_cache: K and V of ended requests.
        has_worker: Whether a worker thread runs the steps.
    """

    def __init__(
        self,
        model: MiniGPT4,
        slots: int = 8,
        stored_tokens: int = 4096,
        compile: bool = False,
    ) -> None:
        if slots < 1:
            raise ValueError(f'slots is {slots}; expected at least 1.')
        self.model = model
        self.slots = slots
        self.has_worker = False
        self.runner = ModelRunner(model, compile)
        self.prefix_cache = PrefixCache(self.runner.kv_cache, stored_tokens)
        self._queue = RequestQueue(slots)
        self._running: list[GenerationRequest] = []  # in the order of slots
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a slot."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Number of requests that have a slot."""
        return len(self._running)

    def submit(
        self,
        prompt: TokenizedPrompt,
        images: Sequence[Tensor] = (),
        **settings: Any,
    ) -> GenerationRequest:
        """Add a request, from any thread.

        Args:
            prompt: The tokenised prompt.
            images: ``(3, H, W)`` uint8, one for each image slot.
            settings: Sampling parameters over the model's own; see
                :class:`SamplingParams`.

        Raises:
            ValueError: Images and image slots do not match, the prompt is
                empty or too long, or a parameter is unknown.
        """
        request = prompt_request(
            self.model, prompt, images, settings, self._advance
        )
        self._queue.add(request)
        return request

    def submit_embeddings(
        self,
        embeddings: Tensor,
        cache_key: list[int] | None = None,
        **settings: Any,
    ) -> GenerationRequest:
        """Add a request with ``(T, hidden_size)`` embeddings as its prompt.

        Args:
            embeddings: The embeddings.
            cache_key: Equal where embeddings are equal, as
                :func:`~.prefix_cache.make_cache_key` returns it. Without it
                the request does not use the prefix cache.
            settings: Sampling parameters over the model's own.
        """
        request = embeddings_request(
            self.model, embeddings, cache_key, settings, self._advance
        )
        self._queue.add(request)
        return request

    def step(self) -> bool:
        """Start waiting requests, then generate one token of each.

        Errors are stored in the requests that they concern; the others
        continue.

        Returns:
            Whether requests run or wait.
        """
        with self._lock, torch.inference_mode():
            try:
                self._end(
                    (request, 'cancelled', None)
                    for request in list(self._running)
                    if request.cancelled
                )
                self._admit()
                if self._running:
                    self._decode()
            except Exception as error:  # no request may wait indefinitely
                for request in self._running:
                    request.finish('error', error)
                self._running.clear()
                self.runner.kv_cache.clear()
                self.prefix_cache.clear()
            return bool(self._running or self._queue)

    def rank(
        self,
        prompt: TokenizedPrompt,
        images: Sequence[Tensor],
        candidates: Sequence[str],
        end: bool = True,
    ) -> list[float]:
        """Compute how likely each of some answers is.

        Images and prompt are computed once, all answers in one pass.

        Args:
            prompt: The tokenised prompt.
            images: As for :meth:`submit`.
            candidates: The answers.
            end: Whether the template's end symbol belongs to an answer, as in
                training.

        Returns:
            The mean log-likelihood of each answer's own tokens, in nats. The
            official ``multi_select`` divides by the length of the longest
            answer instead, which favours short answers.

        Raises:
            ValueError: A candidate has no tokens, or as for :meth:`submit`.
        """
        return [
            score.mean
            for score in self.score_answers(prompt, images, candidates, end)
        ]

    def score_answers(
        self,
        prompt: TokenizedPrompt,
        images: Sequence[Tensor],
        candidates: Sequence[str],
        end: bool = True,
    ) -> list[AnswerScore]:
        """Score some answers as :meth:`rank`, with their tokens counted.

        Args:
            prompt: The tokenised prompt.
            images: As for :meth:`submit`.
            candidates: The answers.
            end: Whether the template's end symbol belongs to an answer.

        Raises:
            ValueError: A candidate has no tokens, or as for :meth:`submit`.
        """
        tokenizer = self.model.decoder.tokenizer
        template = self.model.template
        branches = [
            encode_segment(tokenizer, answer_segment(text, template, end=end))
            for text in candidates
        ]
        if not all(branches):
            raise ValueError(
                f'candidate {branches.index([]) + 1} of {len(branches)} has '
                'no tokens; expected some text in each.'
            )
        longest = max(map(len, branches), default=1)
        settings = dict(max_new_tokens=longest, min_new_tokens=0)
        request = prompt_request(
            self.model, prompt, images, settings, self._advance
        )
        with self._lock, torch.inference_mode():
            runner, cache = self.runner, self.runner.kv_cache
            if not runner.supports_kv_slots:
                runner.encode_images([request])
                return rank_one_by_one(runner, request, branches)
            key = request.cache_key
            (slot,) = cache.allocate(1, len(key) + sum(map(len, branches)))
            request.slot = slot
            try:
                self.prefix_cache.load(slot, key, self._running_prefixes())
                runner.encode_images([request])
                scores = rank_branches(runner, request, branches)
                self.prefix_cache.store(key, slot, in_slot=True)
            finally:
                cache.release(slot)
                cache.compact()
            return scores

    def _advance(self) -> bool:
        """Run a step for a caller, unless a worker thread runs them."""
        if self.has_worker:
            return False
        self.step()
        return True

    def _running_prefixes(self) -> list[CachedPrefix]:
        """Tokens in the slots of running requests."""
        lengths = self.runner.kv_cache.lengths
        return [
            CachedPrefix(request.cache_key[: lengths[slot]], slot)
            for slot, request in enumerate(self._running)
            if request.uses_prefix_cache
        ]

    def _admit(self) -> None:
        """Start waiting requests, as many as there are free slots."""
        admitted = []
        for request in self._queue.admit(len(self._running)):
            if (
                request.sampling_params.num_beams > 1
                or not self.runner.supports_kv_slots
            ):
                self._answer_with_transformers(request)
            else:
                admitted.append(request)
        firsts, others = split_shared_prompts(admitted)
        try:
            self._start(firsts)
        except Exception as error:
            for request in others:
                request.finish('error', error)
            raise
        self._start(others)

    def _start(self, admitted: list[GenerationRequest]) -> None:
        """Allocate slots, load cached prefixes, and prefill the rest."""
        if not admitted:
            return
        # prompts of similar lengths are prefilled together
        admitted.sort(key=lambda request: len(request.cache_key))
        try:
            slots = self.runner.kv_cache.allocate(
                len(admitted), len(admitted[-1].cache_key) + 1
            )
        except Exception as error:  # e.g. out of memory
            for request in admitted:
                request.finish('error', error)
            return
        running = self._running_prefixes()
        self._running += admitted
        for request, slot in zip(admitted, slots, strict=True):
            request.slot = slot
            if request.uses_prefix_cache:
                request.reused_tokens = self.prefix_cache.load(
                    slot, request.cache_key, running
                )
            else:
                self.prefix_cache.offload(slot)
        self._prefill(admitted)

    def _prefill(self, requests: list[GenerationRequest]) -> None:
        """Prefill requests in batches; after an error, one by one."""
        # slots are only released at the end: a batch needs neighbouring ones
        ended: list[_Ended] = []
        try:
            self.runner.encode_images(requests)
            for batch in self._similar_lengths(requests):
                ended += self._append_tokens(batch, self.runner.prefill(batch))
        except Exception as error:
            done = [request for request, _, _ in ended]
            pending = [
                request
                for request in requests
                if not request.token_ids and request not in done
            ]
            if not pending:
                raise
            if len(pending) == 1:
                ended.append((pending[0], 'error', error))
                pending = []
        else:
            pending = []
        finally:
            self._end(ended)
        for request in pending:
            self._prefill([request])

    def _similar_lengths(
        self, requests: Sequence[GenerationRequest]
    ) -> list[list[GenerationRequest]]:
        """Group neighbours whose uncached prompts are of similar lengths.

        At most a third of a group is padding.
        """
        cached = self.runner.kv_cache.lengths
        groups: list[list[GenerationRequest]] = []
        for request in requests:
            group = [*groups[-1], request] if groups else [request]
            lengths = [
                len(r.cache_key) - cached[r.slot]
                for r in group
                if r.slot is not None
            ]
            if groups and max(lengths) * len(lengths) <= 1.5 * sum(lengths):
                groups[-1] = group
            else:
                groups.append([request])
        return groups

    def _decode(self) -> None:
        """Generate one token of each running request."""
        requests = list(self._running)
        try:
            scores = self.runner.decode(requests)
        except Exception as error:  # e.g. out of memory: none can continue
            self._end((request, 'error', error) for request in requests)
            return
        self._end(self._append_tokens(requests, scores))

    def _append_tokens(
        self, requests: Sequence[GenerationRequest], scores: Tensor
    ) -> list[_Ended]:
        """Add the next token to each request; returns those that end."""
        tokens = choose_tokens(
            scores,
            [request.sampler for request in requests],
            [request.token_ids for request in requests],
        )
        logprobs = token_logprobs(
            scores,
            tokens,
            [request.sampling_params.logprobs for request in requests],
        )
        stop_ids = self.model.stop_ids
        ended: list[_Ended] = []
        for request, token, logprob in zip(
            requests, tokens, logprobs, strict=True
        ):
            try:
                if isinstance(token, Exception):
                    raise token
                if token in stop_ids:
                    ended.append((request, 'stop', None))
                    continue
                request.append_token(token, logprob)
                limit = request.sampling_params.max_new_tokens
                if request.detokenizer.stopped:
                    ended.append((request, 'stop', None))
                elif len(request.token_ids) >= limit:
                    ended.append((request, 'length', None))
            except Exception as error:
                ended.append((request, 'error', error))
        return ended

    def _end(self, ended: Iterable[_Ended]) -> None:
        """Finish requests and release their slots."""
        ended = list(ended)
        if not ended:
            return
        cache = self.runner.kv_cache
        remaining = len(self._running) - len(ended)
        try:
            for request, reason, _ in ended:
                slot = request.slot
                assert slot is not None
                if reason != 'error' and request.uses_prefix_cache:
                    self.prefix_cache.store(
                        request.cache_key[: cache.lengths[slot]],
                        slot,
                        # the slots before are filled by remaining requests
                        in_slot=slot >= remaining,
                    )
                cache.release(slot)
                self._running.remove(request)
                request.slot = None
            by_slot = {request.slot: request for request in self._running}
            for source, target in cache.compact():
                by_slot[target] = by_slot.pop(source)
                by_slot[target].slot = target
            self._running = [by_slot[slot] for slot in range(remaining)]
        finally:
            for request, reason, error in ended:
                request.finish(reason, error)

    def _answer_with_transformers(self, request: GenerationRequest) -> None:
        """Answer a request with transformers' ``generate``."""
        decoder, params = self.model.decoder, request.sampling_params
        try:
            self.runner.encode_images([request])
            embeddings = self.runner.prompt_embeddings(request)[None]
            (answer,) = hf_generate(
                decoder.llm,
                decoder.tokenizer,
                embeddings,
                embeddings.new_ones(embeddings.shape[:2]).long(),
                (*self.model.template.stop, *params.stop),
                stop_ids=self.model.stop_ids,
                **params.to_transformers(),
            )
        except Exception as error:
            request.finish('error', error)
            return
        request.set_answer(answer)
        request.finish('stop' if answer.finished else 'length')
