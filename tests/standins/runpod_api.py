"""Stands for RunPod's REST API v2 and for the queue of an endpoint; holds each request against the OpenAPI document.

Built from that document and its descriptions. The document itself is not part of the repository: where it lies
beside it, requests are held against it, else against `runpod_openapi.json`, which says the same of the part
that is used here, in our words.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from openapi_core import OpenAPI

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "facts" / "runpod-openapi-v2.json"
OURS = Path(__file__).with_name("runpod_openapi.json")
DOCUMENTS = [path for path in (OURS, PUBLISHED) if path.is_file()]
TOKEN = "rpa_0123456789SECRET"
PNG = b"\x89PNG\r\n\x1a\n-a picture"


@dataclass(kw_only=True)
class Fault:
    """An answer that is given instead, so many times."""

    method: str
    path: str
    """What the path ends with."""
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    is_applied: bool = False
    """Whether the request is carried out all the same."""


@cache
def read_document(path: Path) -> OpenAPI:
    """Read once for all tests: the whole of RunPod's takes seconds, and so does the import of what reads it."""
    from openapi_core import OpenAPI  # noqa: PLC0415

    return OpenAPI.from_dict(json.loads(path.read_text(encoding="utf-8")))


class RunpodApi:
    """The account. `seen` has every request; `invalid` what the document says against any of them."""

    def __init__(self, document: Path) -> None:
        self._openapi = read_document(document)
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.releases: dict[str, list[dict[str, Any]]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.workers: list[dict[str, Any]] = []
        self.registries = [{"id": "reg_1", "name": "ghcr"}]
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, Any]] = []
        self.invalid: list[str] = []
        self.after_status: Callable[[dict[str, Any]], None] = self.complete
        self.after_request: Callable[[], tuple[int, Any, Mapping[str, str]]] = self.draw
        self.log_lines = ["loading the model", "model loaded"]
        self._lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, method: str, path: str, status: int, **more: Any) -> None:
        """The next such request fails."""
        problem = {"title": "No", "status": status, "detail": more.pop("detail", "because")}
        if "errors" in more:
            problem["errors"] = more.pop("errors")
        body = more.pop("body", None) or json.dumps(problem).encode()
        self.faults.append(Fault(method=method, path=path, status=status, body=body, **more))

    def requests(self, method: str) -> list[Any]:
        """The bodies of what was sent with this method."""
        return [body for each, _, body in self.seen if each == method]

    def worker(self, worker_id: str, status: str = "IDLE", *, is_stale: bool = False) -> None:
        known = [each for each in self.workers if each["id"] != worker_id]
        new = {"id": worker_id, "status": status, "isStale": is_stale, "gpuCount": 1, "version": 1}
        self.workers = [*known, new]

    def complete(self, job: dict[str, Any], worker: str = "w1") -> None:
        """What a job's first look does: a worker of the new release has drawn it."""
        self.worker(worker)
        output = {"images": [base64.b64encode(PNG).decode()]}
        job.update(status="COMPLETED", workerId=worker, delayTime=41_250, executionTime=2_500)
        job.update(output=output)

    def draw(self) -> tuple[int, Any, Mapping[str, str]]:
        """What a request to a load balancer does: a worker of the new release comes up and draws it."""
        self.worker("w1")
        timings = {"generate_s": 0.0}
        return 200, {"images": [base64.b64encode(PNG).decode()], "bakery": {"timings": timings}}, {}

    def edit(self, endpoint_id: str, **changes: Any) -> None:
        """Somebody at the console."""
        self._update(self.endpoints[endpoint_id], changes)

    def _answer(self, handler: _Handler) -> tuple[int, Any, Mapping[str, str]]:
        with self._lock:
            body = handler.body()
            parts = urlsplit(handler.path)
            self.seen.append((handler.command, parts.path, body))
            if parts.path.startswith("/v2/"):
                self._validate(handler, body)
            fault = self._fault(handler.command, parts.path)
            if fault and not fault.is_applied:
                return fault.status, fault.body, fault.headers
            if handler.headers.get("Authorization") != f"Bearer {TOKEN}":
                return _problem(401, "missing or unknown bearer token")
            answer = self._route(handler.command, parts.path.strip("/").split("/"), body)
            return (fault.status, fault.body, fault.headers) if fault else answer

    def _fault(self, method: str, path: str) -> Fault | None:
        for each in self.faults:
            if each.times and each.method == method and path.endswith(each.path):
                each.times -= 1
                return each
        return None

    def _validate(self, handler: _Handler, body: Any) -> None:
        from openapi_core.testing import MockRequest  # noqa: PLC0415  # as in `read_document`

        parts = urlsplit(handler.path)
        request = MockRequest(
            "https://api.runpod.io",
            handler.command.lower(),
            parts.path,
            args={key: value[0] for key, value in parse_qs(parts.query).items()},
            headers=dict(handler.headers.items()),
            data=None if body is None else json.dumps(body).encode(),
            content_type="application/json" if body is not None else "",
        )
        try:
            self._openapi.validate_request(request)
        except Exception as error:  # openapi-core has many kinds, with the reason as the cause
            causes = getattr(error.__cause__, "schema_errors", None) or [error.__cause__ or error]
            self.invalid.append(
                f"{handler.command} {handler.path}: {[str(each)[:500] for each in causes]}"
            )

    def _route(self, method: str, path: list[str], body: Any) -> tuple[int, Any, Mapping[str, str]]:
        match (method, *path):
            case ("GET", "v2", "serverless"):
                return 200, {"endpoints": list(self.endpoints.values())}, {}
            case ("POST", "v2", "serverless"):
                return 201, self._create(body), {}
            case ("GET", "v2", "registries"):
                return 200, {"registries": self.registries}, {}
            case (_, "v2", "serverless", endpoint_id, *_) if endpoint_id not in self.endpoints:
                return _problem(404, "endpoint not found")
            case ("GET", "v2", "serverless", endpoint_id):
                return 200, self.endpoints[endpoint_id], {}
            case ("PATCH", "v2", "serverless", endpoint_id):
                return 200, self._update(self.endpoints[endpoint_id], body), {}
            case ("DELETE", "v2", "serverless", endpoint_id):
                del self.endpoints[endpoint_id]
                return 204, None, {}
            case ("GET", "v2", "serverless", endpoint_id, "workers"):
                return 200, self._workers(endpoint_id), {}
            case ("GET", "v2", "serverless", endpoint_id, "releases"):
                return 200, {"releases": self.releases[endpoint_id], "rollout": {}}, {}
            case ("GET", "v2", "serverless", _, "workers", _, "logs"):
                return 200, self._log(), {"Content-Type": "text/event-stream"}
            case ("POST", "queue", endpoint_id, "run"):
                job_id = f"job-{len(self.jobs) + 1}"
                self.jobs[job_id] = {"id": job_id, "status": "IN_QUEUE", "input": body["input"]}
                return 200, {"id": job_id, "status": "IN_QUEUE"}, {}
            case ("GET", "queue", endpoint_id, "status", job_id):
                job = self.jobs[job_id]
                if job["status"] == "IN_QUEUE":
                    self.after_status(job)
                return 200, {key: value for key, value in job.items() if key != "input"}, {}
            case ("POST", "queue", endpoint_id, "cancel", job_id):
                self.jobs[job_id]["status"] = "CANCELLED"
                return 200, self.jobs[job_id], {}
            case ("POST", "balancer", _, "txt2img"):
                return self.after_request()
        return _problem(404, "no such path")

    def _create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        endpoint_id = f"ep{len(self.releases) + 1}"
        queue = f"{self.url}/queue/{endpoint_id}"
        defaults = {
            "flashboot": "OFF",
            "timeout": 300_000,
            "dataCenterIds": [],
            "networkVolumes": [],
        }
        made: dict[str, Any] = {**defaults, "disk": 20, "args": "", "registry": None, **body}
        made.update(id=endpoint_id, createdAt="2026-11-27T12:00:00Z")
        made["requestUrls"] = {
            "run": f"{queue}/run",
            "status": f"{queue}/status/{{job_id}}",
            "cancel": f"{queue}/cancel/{{job_id}}",
        }
        if body["type"] == "LOAD_BALANCER":
            base = f"{self.url}/balancer/{endpoint_id}"
            made["requestUrls"] = {"base": base, "health": f"{base}/ping"}
        made["gpu"] = {"count": 1, "allowedCudaVersions": [], "minCudaVersion": None, **body["gpu"]}
        self.endpoints[endpoint_id] = made
        self.releases[endpoint_id] = [{"id": "r1", "version": 1, "source": "MANUAL", "diff": []}]
        return made

    def _update(self, endpoint: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        before = json.loads(json.dumps(endpoint))
        for key, value in body.items():
            if key in ("gpu", "workers"):
                if key == "gpu" and "pools" in value:
                    endpoint["gpu"].pop("excludedTypes", None)
                endpoint[key] = {**endpoint[key], **value}
            else:
                endpoint[key] = value
        releases = self.releases[endpoint["id"]]
        if before["image"] != endpoint["image"] or before["env"] != endpoint["env"]:
            entry = {
                "field": "template.imageName",
                "old": before["image"],
                "new": endpoint["image"],
            }
            diff = [entry] if before["image"] != endpoint["image"] else []
            number = len(releases) + 1
            releases.insert(
                0, {"id": f"r{number}", "version": number, "source": "MANUAL", "diff": diff}
            )
            for worker in self.workers:
                worker["isStale"] = True
        return endpoint

    def _workers(self, endpoint_id: str) -> dict[str, Any]:
        return {
            "workers": self.workers,
            "summary": {},
            "endpointVersion": len(self.releases[endpoint_id]),
        }

    def _log(self) -> bytes:
        events = [
            f"id: {number}\ndata: {json.dumps({'ts': '2026-11-27T12:00:00Z', 'source': 'container', 'line': line})}\n\n"
            for number, line in enumerate(self.log_lines)
        ]
        return "".join(events).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    api: RunpodApi

    def body(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length)) if length else None

    def _handle(self) -> None:
        status, data, headers = self.api._answer(self)
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        body = (
            data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
        )
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle

    def log_message(self, *_: object) -> None:
        pass


def _problem(status: int, detail: str) -> tuple[int, Any, Mapping[str, str]]:
    problem = {"title": "No", "status": status, "detail": detail}
    return status, problem, {"Content-Type": "application/problem+json"}
