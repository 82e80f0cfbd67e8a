# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Actors in this process, with the members of ``ray`` that are used."""

import pickle
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from minigpt4.actors import cluster
from minigpt4.actors.cluster import ActorPlan, Cluster


class RayError(Exception):
    """The error of Ray for an actor that ended."""


class RayTaskError(RayError):
    """The error of Ray for an exception in an actor."""


class FakeRay:
    """Runs one call at each ``wait``, in a random order.

    Args:
        ends: Whether the actor ends that gets a call with these arguments.
        pickled: Whether arguments and results are copied, as between
            processes.

    Attributes:
        busy: How many calls waited at each ``wait``.
        actors: How many actors were started.
        killed: How many were ended.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(
        self,
        ends: Callable[[str, Any], bool] = lambda name, value: False,
        pickled: bool = False,
    ) -> None:
        self.ends, self.pickled = ends, pickled
        self.random = random.Random(0)
        self.busy: list[int] = []
        self.actors = self.killed = 0

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: type) -> Any:
        def start() -> Any:
            self.actors += 1
            actor = kind()
            return SimpleNamespace(
                **{
                    name: SimpleNamespace(
                        remote=lambda value, name=name: SimpleCall(
                            (name, getattr(actor, name), value)
                        )
                    )
                    for name in ('start', 'run')
                }
            )

        factory = SimpleNamespace(remote=start)
        return SimpleNamespace(options=lambda **options: factory)

    def wait(self, calls: list, timeout: float) -> tuple[list, list]:
        assert calls and timeout
        self.busy.append(len(calls))
        call = self.random.choice(calls)
        return [call], [other for other in calls if other is not call]

    def get(self, call: 'SimpleCall') -> Any:
        name, function, value = call.what
        if self.ends(name, value):
            raise RayError('the actor died.\nmore')
        return self._copy(function(self._copy(value)))

    def _copy(self, value: Any) -> Any:
        return pickle.loads(pickle.dumps(value)) if self.pickled else value

    def kill(self, actor: Any) -> None:
        self.killed += 1


class SimpleCall:
    """A call of an actor's method; each is a key of its own."""

    def __init__(self, what: tuple) -> None:
        self.what = what


def use_fake(monkeypatch, ray: FakeRay, actors: int, machines: int = 1):
    """Let the commands of a test run on actors in this process."""
    plan = ActorPlan(actors, 0, 0, machines)
    monkeypatch.setattr(cluster, 'clusters', [Cluster(ray, plan)])
    return ray
