"""The webui's HTTP API, as far as a worker needs it.

One connection for each call: the webui closes idle ones, and opening one on loopback costs 0.2 ms.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import select
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.clock import clock

_SHORT_CALL_S = 30.0
_DETAIL_CHARS = 2000
_OUT_OF_MEMORY = re.compile(
    "out ?of ?memory|memoryerror|can't allocate memory|cpuallocator", re.IGNORECASE
)
"""What torch says on a GPU and on a CPU, and Python itself."""


class WebuiError(Exception):
    """A call to the webui did not give a result; itself where no answer came in the time allowed."""


class WebuiUnreachableError(WebuiError):
    """Nothing listens, or the connection broke: the webui is starting, dead or dying."""


@dataclass(eq=False, kw_only=True)
class WebuiAnswerError(WebuiError):
    """The webui answered with an error status."""

    status: int
    """The HTTP status."""
    kind: str
    """The name of the webui's exception, where it says so."""
    detail: str
    """The webui's own words, cut to 2,000 characters; for the log, never for a client."""

    def __str__(self) -> str:
        return f"the webui answered {self.status} {self.kind} {self.detail}".rstrip()

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the device's (or the machine's) memory ran out."""
        return _OUT_OF_MEMORY.search(f"{self.kind} {self.detail}") is not None


class WebuiClient:
    """Calls to one webui on 127.0.0.1. Stateless, so that several threads may share it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def draw(
        self, payload: Mapping[str, Any], *, endpoint: str = "txt2img", timeout_s: float
    ) -> dict[str, Any]:
        """Generates; returns `images` (base64), `parameters` and `info` (a JSON string).

        An upscaling's `image` comes as the one of `images`, with `html_info`.

        Raises:
            WebuiError: one of the subclasses above.
        """
        answer = self.call("POST", f"/sdapi/v1/{endpoint}", payload, timeout_s=timeout_s)
        if isinstance(answer, dict) and isinstance(answer.get("image"), str):
            answer["images"] = [answer.pop("image")]
        if not isinstance(answer, dict) or not isinstance(answer.get("images"), list):
            raise WebuiAnswerError(status=200, kind="NotAnAnswer", detail="no images in the answer")
        return answer

    def progress(
        self, *, with_picture: bool = False, timeout_s: float = _SHORT_CALL_S
    ) -> dict[str, Any]:
        """`progress` (0 to 1), `eta_relative` (s) and `state`; `current_image` if it is wanted and there is one."""
        path = f"/sdapi/v1/progress?skip_current_image={str(not with_picture).lower()}"
        return dict(self.call("GET", path, timeout_s=timeout_s))

    def interrupt(self, *, timeout_s: float = _SHORT_CALL_S) -> None:
        """Stops the picture that is being drawn; harmless while idle."""
        self.call("POST", "/sdapi/v1/interrupt", {}, timeout_s=timeout_s)

    def options(self) -> dict[str, Any]:
        """All settings with their values."""
        return dict(self.get("options"))

    def get(self, name: str) -> Any:
        """`/sdapi/v1/<name>`: `samplers`, `schedulers`, `upscalers` and the like."""
        return self.call("GET", f"/sdapi/v1/{name}")

    def call(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None = None,
        *,
        timeout_s: float = _SHORT_CALL_S,
    ) -> Any:
        """One request and its JSON answer."""
        body = None if payload is None else json.dumps(payload).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            _wait_for_answer(connection, timeout_s)
            response = connection.getresponse()
            data = response.read()
        except TimeoutError as error:
            raise WebuiError(f"no answer to {path} within {timeout_s:.0f} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise WebuiUnreachableError(f"{path}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise read_refusal(response.status, data)
        try:
            return json.loads(data)
        except ValueError as error:
            raise WebuiAnswerError(status=200, kind="NotJson", detail=f"{path}: {error}") from error


def _wait_for_answer(connection: http.client.HTTPConnection, timeout_s: float) -> None:
    """A socket's own time-out would be over after a thaw, with the webui still drawing."""
    poll, end = select.poll(), clock.now() + timeout_s
    poll.register(connection.sock, select.POLLIN)
    while not poll.poll(1000 * min(max(end - clock.now(), 0), 1)):
        if clock.now() >= end:
            raise TimeoutError


def read_refusal(status: int, data: bytes) -> WebuiAnswerError:
    """Reads `{"error", "detail", "errors"}`, a validation's `{"detail": […]}`, or plain text."""
    text, kind = data[: 4 * _DETAIL_CHARS].decode("utf-8", "replace"), ""
    with contextlib.suppress(ValueError):
        answer = json.loads(data)
        if isinstance(answer, dict):
            kind = str(answer.get("error") or "")
            parts = filter(None, (answer.get("detail"), answer.get("errors")))
            text = " ".join(each if isinstance(each, str) else json.dumps(each) for each in parts)
    detail = " ".join(text.split())[:_DETAIL_CHARS]
    return WebuiAnswerError(status=status, kind=kind, detail=detail)
