"""A stand-in of the RunPod platform: the HTTP endpoints that the SDK's worker loop calls, on loopback.

What it models: jobs are queued and handed to whichever worker asks first; a worker holds its request open
until there is one; results and progress reports come by POST; workers ping with the jobs they have; a
cancelled job is announced on the stop channel (SDK 1.10 on). What can be made to go wrong: results that
get lost, acknowledgements that come late, workers that vanish.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_HOLD_S = 1.0
"""How long a request for a job is held open; the real one holds it for much longer."""


@dataclass
class Job:
    """One job and everything that was heard of it."""

    id: str
    input: Any
    taken_by: list[str] = field(default_factory=list)
    progress: list[Any] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    late_progress: int = 0
    """Progress reports that came after the result."""

    @property
    def output(self) -> Any:
        return self.results[-1].get("output")

    @property
    def error(self) -> dict[str, Any]:
        """The error, which must be a string that holds JSON."""
        text = self.results[-1]["error"]
        assert isinstance(text, str)
        error: dict[str, Any] = json.loads(text)
        return error


class Platform:
    """The platform; `with Platform() as platform:`.

    Args:
        lose_results: So many deliveries of results are answered 500 and forgotten.
        delay_s: Every delivery is acknowledged so much later.
        report_s: How long a report of progress is on its way, beside that.
    """

    def __init__(
        self, *, lose_results: int = 0, delay_s: float = 0.0, report_s: float = 0.0
    ) -> None:
        self.lose_results = lose_results
        self.delay_s = delay_s
        self.report_s = report_s
        self.reports_on_their_way = 0
        self.jobs: dict[str, Job] = {}
        self.pings: dict[str, list[str]] = defaultdict(list)
        self.asked: set[str] = set()
        """Workers that have asked for a job."""
        self._queue: list[Job] = []
        self._stops: dict[str, list[str]] = defaultdict(list)
        self._changed = threading.Condition()
        self._server = _Server(self)

    def __enter__(self) -> Platform:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, pod: str) -> dict[str, str]:
        """What RunPod sets in a worker's container."""
        base = f"http://127.0.0.1:{self._server.server_address[1]}/v2/endpoint"
        return {
            "RUNPOD_ENDPOINT_ID": "endpoint",
            "RUNPOD_POD_ID": pod,
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=stand-in",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=stand-in",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
        }

    def submit(self, value: Any) -> Job:
        """Queues a job."""
        job = Job(id=f"job-{uuid.uuid4().hex[:8]}", input=value)
        with self._changed:
            self.jobs[job.id] = job
            self._queue.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Takes it out of the queue, or tells the worker that has it."""
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)
            elif job.taken_by:
                self._stops[job.taken_by[-1]].append(job.id)
            self._changed.notify_all()

    def requeue(self, job: Job) -> None:
        """What the platform does when a worker vanished with a job."""
        with self._changed:
            self._queue.append(job)
            self._changed.notify_all()

    def wait_for(self, condition: Any, timeout_s: float = 180.0) -> None:
        """Waits until `condition()` holds."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                left_s = end - time.monotonic()
                assert left_s > 0, f"not within {timeout_s} s; jobs: {self._describe()}"
                self._changed.wait(min(left_s, 0.2))

    def wait(self, job: Job, timeout_s: float = 180.0) -> Job:
        """Waits for the job's result."""
        self.wait_for(lambda: job.results, timeout_s)
        return job

    def _describe(self) -> list[Any]:
        return [(each.id, each.taken_by, len(each.results)) for each in self.jobs.values()]

    # What the SDK calls.

    def take(self, pod: str) -> Job | None:
        end = time.monotonic() + _HOLD_S
        with self._changed:
            self.asked.add(pod)
            self._changed.notify_all()
            while not self._queue and time.monotonic() < end:
                self._changed.wait(0.05)
            if not self._queue:
                return None
            job = self._queue.pop(0)
            job.taken_by.append(pod)
            self._changed.notify_all()
            return job

    def take_stops(self, pod: str) -> list[str]:
        end = time.monotonic() + _HOLD_S
        with self._changed:
            while not self._stops[pod] and time.monotonic() < end:
                self._changed.wait(0.05)
            return self._stops.pop(pod, [])

    def receive(self, job_id: str, data: dict[str, Any]) -> bool:
        """A result or a progress report; False if it gets lost."""
        is_report = data.get("status") == "IN_PROGRESS"
        with self._changed:
            self.reports_on_their_way += is_report
        time.sleep(self.delay_s + is_report * self.report_s)
        with self._changed:
            job = self.jobs[job_id]
            if is_report:
                self.reports_on_their_way -= 1
                job.progress.append(data["output"])
                job.late_progress += bool(job.results)
            elif self.lose_results > 0:
                self.lose_results -= 1
                return False
            else:
                job.results.append(data)
            self._changed.notify_all()
            return True

    def ping(self, pod: str, job_ids: str) -> None:
        with self._changed:
            self.pings[pod].append(job_ids)
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, platform: Platform) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.platform = platform


class _Requests(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        kind, pod = parts.path.split("/")[3:5]
        platform = self.server.platform
        if kind == "job-take":
            job = platform.take(pod)
            self._send(None if job is None else {"id": job.id, "input": job.input})
        elif kind == "job-stop":
            self._send({"jobsToStop": platform.take_stops(pod)})
        elif kind == "ping":
            platform.ping(pod, ",".join(parse_qs(parts.query).get("job_id", [])))
            self._send({})
        else:
            self._send({"error": "no such endpoint"}, status=404)

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        job_id = parts.path.split("/")[5]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kept = self.server.platform.receive(job_id, json.loads(body))
        self._send({}, status=200 if kept else 500)

    def _send(self, answer: Any, *, status: int = 200) -> None:
        data = b"" if answer is None else json.dumps(answer).encode()
        try:
            self.send_response(204 if answer is None else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        """Nothing: tests have their own words."""
