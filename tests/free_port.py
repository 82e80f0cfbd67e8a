# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A port of loopback for a server that another process starts."""

import random
import socket


def free_port() -> int:
    """Find a free port below those that the system gives to connections.

    A port that the system has chosen may become that of a connection of
    another test before the server starts.
    """
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(('127.0.0.1', port))
            except OSError:
                continue
        return port
    raise OSError('100 ports are in use')
