# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers of the LLM of a local model, without an image."""

import functools
import time
from collections.abc import Iterator

from mmengine.structures import BaseDataElement

from ..generation.engine import Engine
from ..generation.request import GenerationRequest
from ..loading import load_model
from ..models import MiniGPT4
from ..prompts import Turn, get_template
from ..utils.errors import one_line
from .answers import Answer, EndpointError, Request
from .settings import EndpointSettings

_TICK_SECONDS = 0.5
_STAGE_1_TEMPLATE = 'bare'


class ModelBackend:
    """A backend that asks the LLM of a MiniGPT-4.

    Args:
        model: The model, in eval mode.
        settings: The settings of the step.
    """

    def __init__(self, model: MiniGPT4, settings: EndpointSettings) -> None:
        self._model = model
        self._settings = settings
        self._slots = settings.concurrency
        self._max_failures = settings.max_failures
        self._name = settings.model
        self._params: dict = dict(max_new_tokens=settings.max_tokens)
        if settings.temperature:
            self._params.update(
                do_sample=True, temperature=settings.temperature
            )
        else:
            self._params.update(do_sample=False)

    def answers(
        self, requests: Iterator[Request | None]
    ) -> Iterator[tuple[Request, Answer] | None]:
        """Yield the answer of each request; see ``AnswerBackend``."""
        engine = Engine(self._model, self._slots)
        running: list[tuple[Request, GenerationRequest]] = []
        failed = 0
        more = True
        ticked = time.monotonic()
        while more or running:
            ended: list[tuple[Request, Answer]] = []
            while more and len(running) < 2 * self._slots:
                try:
                    request = next(requests)
                except StopIteration:
                    more = False
                    break
                if request is None:
                    break
                if request.known is not None:
                    yield request, request.known
                    continue
                try:
                    running.append((request, self._submit(engine, request)))
                except ValueError as error:  # e.g. it is too long
                    ended.append((request, Answer('', one_line(error))))
            engine.step()
            ended += [(r, self._answer(g)) for r, g in running if g.finished]
            running = [(r, g) for r, g in running if not g.finished]
            for request, answer in ended:
                failed = failed + 1 if answer.endpoint_failed else 0
                yield request, answer
                if failed >= self._max_failures:
                    raise EndpointError(
                        f'the model {self._name} failed {failed} times in '
                        f'succession, at last: {answer.problem}; '
                        f'{self._settings.kept}.'
                    )
            if time.monotonic() - ticked > _TICK_SECONDS:
                ticked = time.monotonic()
                yield None

    def _submit(self, engine: Engine, request: Request) -> GenerationRequest:
        sample = BaseDataElement(images=[], turns=[Turn(request.message)])
        prompt = self._model.collator(training=False).tokenize(sample)
        return engine.submit(prompt, [], **self._params)

    def _answer(self, request: GenerationRequest) -> Answer:
        if request.error is not None:
            return Answer('', one_line(request.error), endpoint_failed=True)
        counts = request.prompt_tokens, len(request.token_ids)
        limit = request.sampling_params.max_new_tokens
        text = request.answer().text
        if request.finish_reason == 'length':
            problem = (
                f'the answer reached {limit} tokens and is cut off; raise '
                f'{self._settings.option("max_tokens")}.'
            )
            return Answer('', problem, *counts)
        if not text.strip():
            return Answer('', 'the answer has no text.', *counts)
        return Answer(text.strip(), '', *counts)


@functools.lru_cache(maxsize=1)
def shared_model(
    name: str,
    pretrained: str | None,
    device: str | None,
    template: str | None,
) -> MiniGPT4:
    """Load a model for one or several tasks; the last one is kept.

    Args:
        name: A name of our hub, or the file of a config.
        pretrained: A checkpoint.
        device: The device.
        template: The prompt template; None: its own, or, for a model of
            stage 1, the chat template of its LLM.
    """
    model = load_model(name, pretrained, device)
    tokenizer = model.decoder.tokenizer
    if template is None and model.template.name == _STAGE_1_TEMPLATE:
        has_own = getattr(tokenizer, 'chat_template', None)
        template = 'chat' if has_own else 'vicuna_v0'
    if template is not None:
        model.template = get_template(template, tokenizer)
    return model
