"""Free ports for processes that want a number before they start."""

import os
import random
import socket

# Below the ports that the kernel gives to outgoing connections, one of which could take a port again
# between its choice and its use.
_RANGE = range(10_000, 32_000)
# Of processes that run tests side by side each has its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_COUNT = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PORTS = random.sample(_RANGE[_WORKER::_COUNT], len(_RANGE[_WORKER::_COUNT]))


def free_port() -> int:
    """A port of loopback on which nobody listens, another at each call."""
    while True:
        port = _PORTS.pop()
        with socket.socket() as probe:
            # As a server would: connections that ended a moment ago are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
