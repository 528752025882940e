"""How the webui's refusals are read. Calls themselves are tested against the demo (tests/integration)."""

import json
from typing import Any

import pytest

from runtime.webui.client import WebuiAnswerError, read_refusal


def refusal(answer: Any, status: int = 500) -> WebuiAnswerError:
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_refusal(status, data)


def test_an_error_of_the_webui() -> None:
    error = refusal({"error": "RuntimeError", "detail": "", "body": "", "errors": "a\n  b"})
    assert (error.status, error.kind, error.detail) == (500, "RuntimeError", "a b")


def test_a_validation_error() -> None:
    error = refusal({"detail": [{"loc": ["body", "steps"], "msg": "value is not"}]}, 422)
    assert (error.status, error.kind) == (422, "")
    assert "value is not" in error.detail


def test_something_else_entirely() -> None:
    assert refusal(b"<html>Bad Gateway</html>", 502).detail == "<html>Bad Gateway</html>"
    assert refusal(b"\xff" * 100_000).detail == "\ufffd" * 2000
    assert refusal([1, 2]).detail == "[1, 2]"


@pytest.mark.parametrize(
    ("kind", "errors", "is_out_of_memory"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 4.50 GiB", True),
        ("RuntimeError", "CUDA error: out of memory", True),
        (
            "RuntimeError",
            "[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate",
            True,
        ),
        ("MemoryError", "", True),
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied", False),
        ("NansException", "A tensor with all NaNs was produced", False),
    ],
)
def test_out_of_memory_is_recognised(kind: str, errors: str, is_out_of_memory: bool) -> None:
    assert refusal({"error": kind, "errors": errors}).is_out_of_memory is is_out_of_memory
