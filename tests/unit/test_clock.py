"""The worker's clock: what was frozen is left out, whoever asks first; and what hangs on it."""

import socket
import threading
import time
from types import SimpleNamespace

import pytest

from runtime import clock as clock_module
from runtime.clock import Clock
from runtime.webui import client
from runtime.webui.client import WebuiClient, WebuiError


def test_time_without_a_watch_is_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((5.0, 5000.0))
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    clock = Clock()
    assert (clock.now(), clock.now(), clock.frozen_s) == (5.0, 5000.0, 0.0)


def test_what_was_frozen_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((10.0, 10.25, 11.5, 1011.5, 1012.5, 1012.75))
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    monkeypatch.setattr(Clock, "_look", lambda _: None)
    clock = Clock()
    told: list[float] = []
    clock.watch(told.append)
    seen = [clock.now() for _ in range(5)]
    # The frozen second itself is not counted either: nobody knows how much of it could be used.
    assert seen == [10.25, 11.5, 11.5, 12.5, 12.75]
    assert clock.frozen_s == 1000.0
    assert told == [1000.0]


@pytest.fixture
def silent() -> socket.socket:
    """Takes connections, and answers when told."""
    return socket.create_server(("127.0.0.1", 0))


def test_a_call_outlives_a_time_that_passed_while_frozen(
    silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = SimpleNamespace(now=lambda: 0.0)  # no second in which the worker could run
    monkeypatch.setattr(client, "clock", running)

    def answer() -> None:
        connection, _ = silent.accept()
        connection.recv(1 << 16)
        time.sleep(1.5)  # longer than the time allowed below
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    threading.Thread(target=answer, daemon=True).start()
    with silent:
        port = silent.getsockname()[1]
        assert WebuiClient(port).call("GET", "/x", timeout_s=0.5) == {}


def test_a_call_without_an_answer_ends(silent: socket.socket) -> None:
    with silent, pytest.raises(WebuiError, match="no answer to /x within 1 s"):
        WebuiClient(silent.getsockname()[1]).call("GET", "/x", timeout_s=0.6)
