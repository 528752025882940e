"""RunPod's REST API v2, as its OpenAPI document has it, and the queue of an endpoint.

The token goes to the API's host, and to the hosts that RunPod names as an endpoint's own; nowhere else.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests

from bake.certificates import trusted_certificates
from bake.errors import ManifestError, PushError
from bake.image.registry.transport import NoNetrc, Transient
from bake.settings import Settings
from runtime.files.answers import retry_after_s
from runtime.files.http import Session
from runtime.retry import MAX_ASKED_S, TRANSIENT_STATUSES, USUAL

_CONNECT_S = 15
_READ_S = 60
_KEY_HINT = "make a key under Settings, API Keys in RunPod's console, and put it in RUNPOD_API_KEY, or its file's path in RUNPOD_API_KEY_FILE"
_WORDS: Mapping[int, tuple[str, str | None]] = {
    400: ("RunPod does not accept this", None),
    401: ("RunPod does not know the API key", _KEY_HINT),
    402: ("RunPod asks for payment", "add credit to the account in RunPod's console"),
    403: ("the API key lacks the right to this", "give the key read and write access to Serverless"),
    404: ("RunPod does not have this, or not in this account", "bake deploy MANIFEST makes what is not there"),
    409: ("another change is under way", "wait until it is through, then run the command again"),
    422: ("RunPod does not accept this", "see the section `deploy` of the manifest (docs/deploy.md#the-section-deploy)"),
    429: ("RunPod asks for fewer requests", "wait a minute, then run the command again"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An endpoint as it is."""

    id: str
    name: str
    type: str
    fields: Mapping[str, Any]
    """All else, as the API has it."""
    urls: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker of an endpoint, as the API lists it."""

    id: str
    status: str
    is_stale: bool
    """Whether it runs an older release."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers that there are now."""

    workers: tuple[Worker, ...]
    version: int | None
    """Of the endpoint's present release."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job in an endpoint's queue."""

    id: str
    status: str
    worker: str = ""
    waited_ms: int = 0
    ran_ms: int = 0
    output: Any = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A line of a worker's log; a later request goes on after its `time`."""

    id: str
    time: str
    text: str


@dataclass(kw_only=True, eq=False)
class RunpodClient:
    """Use as a context manager."""

    url: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        self._session = Session()
        self._session.auth = NoNetrc()

    def trust(self, bundle: str) -> None:
        """Certificates in place of those that `requests` brings."""
        self._session.verify = bundle

    def __enter__(self) -> RunpodClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def endpoints(self) -> list[Endpoint]:
        """All of the account."""
        return [_endpoint(each) for each in self._list("/v2/serverless", "endpoints")]

    def endpoint(self, endpoint_id: str) -> Endpoint:
        return _endpoint(self._call("GET", f"/v2/serverless/{endpoint_id}"))

    def create_endpoint(self, body: Mapping[str, Any]) -> Endpoint:
        """Never sent twice where the first may have arrived: that would be two endpoints."""
        return _endpoint(self._call("POST", "/v2/serverless", body, is_repeatable=False))

    def update_endpoint(self, endpoint_id: str, body: Mapping[str, Any]) -> Endpoint:
        return _endpoint(self._call("PATCH", f"/v2/serverless/{endpoint_id}", body))

    def delete_endpoint(self, endpoint_id: str) -> None:
        self._call("DELETE", f"/v2/serverless/{endpoint_id}")

    def workers(self, endpoint_id: str) -> Workers:
        found = self._call("GET", f"/v2/serverless/{endpoint_id}/workers")
        workers = tuple(
            Worker(
                id=str(each.get("id")),
                status=str(each.get("status")),
                is_stale=bool(each.get("isStale")),
            )
            for each in found.get("workers") or ()
        )
        return Workers(workers=workers, version=found.get("endpointVersion"))

    def earlier_images(self, endpoint_id: str) -> list[str]:
        """The images of earlier releases, the newest first."""
        return [
            str(entry["old"])
            for release in self._list(f"/v2/serverless/{endpoint_id}/releases", "releases")
            for entry in release.get("diff") or ()
            if entry.get("field") in ("template.imageName", "image") and entry.get("old")
        ]

    def registries(self) -> Mapping[str, str]:
        """Name to id of the account's registry credentials."""
        found = self._list("/v2/registries", "registries")
        return {str(each.get("name")): str(each.get("id")) for each in found}

    def log(
        self, endpoint_id: str, worker: str, *, tail: int, after: str = "", read_s: float = _READ_S
    ) -> Iterator[LogLine]:
        """A worker's log as it comes; ends when the connection does, or nothing came for `read_s`."""
        path = f"/v2/serverless/{endpoint_id}/workers/{worker}/logs"
        headers = {"Last-Event-ID": after} if after else {}
        try:
            with self._send(
                "GET", path, None, params={"tail": tail}, headers=headers, read_s=read_s
            ) as answer:
                yield from _events(answer)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ):
            return

    def submit(self, endpoint: Endpoint, value: Mapping[str, Any]) -> Job:
        """Puts a job into the queue."""
        url = self._own(endpoint, "run")
        return _job(self._call("POST", url, {"input": value}))

    def job(self, endpoint: Endpoint, job_id: str) -> Job:
        url = self._own(endpoint, "status").replace("{job_id}", job_id)
        return _job(self._call("GET", url))

    def cancel(self, endpoint: Endpoint, job_id: str) -> None:
        self._call("POST", self._own(endpoint, "cancel").replace("{job_id}", job_id))

    def draw(self, endpoint: Endpoint, value: Mapping[str, Any], *, read_s: float) -> Any:
        """What a worker of a load-balancing endpoint answers to a request, which is sent once.

        Raises:
            Transient: there is no answer, or one that may be another the next time.
            PushError: it is refused.
        """
        url = f"{self._own(endpoint, 'base').rstrip('/')}/txt2img"
        with self._send("POST", url, value, read_s=read_s) as answer:
            return _read(answer)

    def _list(self, path: str, key: str) -> list[Mapping[str, Any]]:
        found = self._call("GET", path).get(key)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise PushError(f"RunPod's answer lacks the list {key!r}", where=f"GET {path}")
        return found

    def _own(self, endpoint: Endpoint, what: str) -> str:
        url = endpoint.urls.get(what, "")
        parts = urlsplit(url)
        is_runpod = parts.scheme == "https" and re.search(
            r"(^|\.)runpod\.(ai|io|net)$", parts.hostname or ""
        )
        if not is_runpod and parts[:2] != urlsplit(self.url)[:2]:
            raise PushError(
                f"the API names no address of its own for requests ({what})", where=endpoint.id
            )
        return url

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        is_repeatable: bool = True,
    ) -> Any:
        """The JSON of an answer that means success; tried again where that is safe."""
        was_sent = False
        for tries in itertools.count(1):
            try:
                with self._send(method, path, body) as answer:
                    return _read(answer)
            except Transient as error:
                if method == "DELETE" and was_sent and "404" in error.what:
                    return None
                pause_s = USUAL.pause_s(tries, asked_s=error.wait_s)
                if pause_s is None or not (is_repeatable or error.counts is False):
                    raise _give_up(error, tries, self.url, is_repeatable=is_repeatable) from error
                time.sleep(pause_s)
            except PushError as error:
                if method == "DELETE" and was_sent and "404" in error.what:
                    return None
                raise
            was_sent = True
        raise AssertionError

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        read_s: float = _READ_S,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """An answer below 400.

        Raises:
            Transient: it may be another the next time; `counts` is False where nothing arrived or was done.
            PushError: it will not.
        """
        url = path if path.startswith("http") else f"{self.url}{path}"
        try:
            answer = self._session.request(
                method,
                url,
                json=body,
                params=params,
                headers={"Authorization": f"Bearer {self.token}", **(headers or {})},
                timeout=(_CONNECT_S, read_s),
                allow_redirects=False,
                stream=True,
            )
        except (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError) as error:
            raise Transient(f"no connection ({type(error).__name__})", counts=False) from error
        except (requests.ConnectionError, requests.Timeout) as error:
            is_refused = "NewConnectionError" in repr(error) or "NameResolution" in repr(error)
            raise Transient(f"no answer ({type(error).__name__})", counts=not is_refused) from error
        if answer.status_code < 300:
            return answer
        with answer:
            what = f"HTTP {answer.status_code}{self._details(answer)}"
            if answer.status_code in TRANSIENT_STATUSES:
                is_undone = answer.status_code == 429
                raise Transient(what, wait_s=retry_after_s(answer), counts=not is_undone)
            words, hint = _WORDS.get(
                answer.status_code, ("RunPod gives an answer that bake does not know", None)
            )
            raise PushError(f"{words}: {what}", where=f"{method} {urlsplit(url).path}", hint=hint)

    def _details(self, answer: requests.Response) -> str:
        """What a problem document says, on one line and without the token."""
        try:
            problem = json.loads(answer.raw.read(65536, decode_content=True))
            texts = [
                problem.get("detail") or problem.get("title") or "",
                *(problem.get("errors") or ()),
            ]
        except (ValueError, AttributeError, TypeError, OSError):
            return ""
        line = "; ".join(" ".join(str(each).split())[:300] for each in texts if each)
        return f", {line.replace(self.token, '***')}" if line else ""


def _give_up(error: Transient, tries: int, url: str, *, is_repeatable: bool) -> PushError:
    if not is_repeatable and error.counts:
        return PushError(
            f"{error.what}: whether the endpoint was made is not known",
            where=url,
            hint="run the command again: it finds the endpoint by its name if it is there",
        )
    if (error.wait_s or 0) > MAX_ASKED_S:
        return PushError(
            f"{error.what}, and asks to wait {error.wait_s:.0f} s",
            where=url,
            hint="run the command again then; nothing is half-done that it does not finish",
        )
    return PushError(
        f"{error.what}, {tries} times in a row",
        where=url,
        hint="see status pages and network; nothing is half-done that the same command does not finish",
    )


def _read(answer: requests.Response) -> Any:
    if answer.status_code == 204:
        return None
    try:
        data = answer.json()
    except (ValueError, requests.RequestException) as error:
        raise Transient(f"HTTP {answer.status_code} without JSON") from error
    if not isinstance(data, dict):
        raise Transient(f"HTTP {answer.status_code} with other JSON than documented")
    return data


def _endpoint(data: Mapping[str, Any]) -> Endpoint:
    try:
        return Endpoint(
            id=data["id"],
            name=data["name"],
            type=data.get("type") or "QUEUE",
            fields=data,
            urls=data.get("requestUrls") or {},
        )
    except KeyError as error:
        raise PushError(f"RunPod's answer lacks {error} of an endpoint") from error


def _job(data: Mapping[str, Any]) -> Job:
    return Job(
        id=str(data.get("id", "")),
        status=str(data.get("status", "")),
        worker=str(data.get("workerId") or ""),
        waited_ms=int(data.get("delayTime") or 0),
        ran_ms=int(data.get("executionTime") or 0),
        output=data.get("output"),
        error=str(data.get("error") or ""),
    )


def _events(answer: requests.Response) -> Iterator[LogLine]:
    """Server-sent events: `id:` and `data:` lines, an empty line after each event."""
    event_id, data = "", ""
    for raw in answer.iter_lines(decode_unicode=False):
        line = raw.decode("utf-8", "replace")
        name, _, value = line.partition(":")
        if name == "id":
            event_id = value.strip()
        elif name == "data":
            data += value.removeprefix(" ")
        elif not line and data:
            try:
                entry = json.loads(data)
                yield LogLine(id=event_id, time=str(entry.get("ts", "")), text=str(entry["line"]))
            except (ValueError, KeyError, AttributeError):
                yield LogLine(id=event_id, time="", text=data)
            data = ""


def connect(settings: Settings) -> RunpodClient:
    """A client with what the environment says.

    Raises:
        ManifestError: there is no key.
    """
    if not settings.runpod_token:
        raise ManifestError("RunPod's API key is missing", where="RUNPOD_API_KEY", hint=_KEY_HINT)
    client = RunpodClient(url=settings.runpod_url, token=settings.runpod_token)
    if bundle := trusted_certificates(settings):
        client.trust(str(bundle))
    return client
