"""`delivery: s3` against a real S3 server that checks signatures and regions: OpenStack Swift, started here.

The links are opened with plain requests. What real vendors do is in docs/verification.md.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import socket
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.bucket_case import lead_here
from tests.integration.worker import ROOT, SDKS, SMALL, Sdk, running
from tests.ports import free_port

REGIONS = ("us-east-1", "eu-west-2", "us-west-004", "fra1", "auto")
OWNER = {"BUCKET_ACCESS_KEY_ID": "test:owner", "BUCKET_SECRET_ACCESS_KEY": "s3cret"}
PNG = b"\x89PNG\r\n\x1a\n" + b"1" * 100_000
JPEG = b"\xff\xd8\xff" + b"2" * 1000
WEBP = b"RIFF" + b"3" * 1000


class Server:
    """A running Swift; `ports` by region."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports

    def endpoint(self, host: str, region: str, path: str = "") -> str:
        return f"http://{host}:{self.ports[region]}{path}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    python = ROOT / ".venv-swift" / "bin" / "python"
    assert python.exists(), "the S3 server is missing: make runtime-venvs"
    folder = tmp_path_factory.mktemp("swift") / "files"
    process = subprocess.Popen(
        [python, "-W", "ignore", ROOT / "tests" / "s3_server.py", folder, *REGIONS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the S3 server did not start"
        yield Server(json.loads(line))
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait(60)


@pytest.fixture(scope="module")
def pics(server: Server) -> str:
    """A bucket."""
    code = (
        "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1',"
        " aws_access_key_id='test:owner', aws_secret_access_key='s3cret').create_bucket(Bucket='pics')"
    )
    endpoint = server.endpoint("127.0.0.1", "us-east-1")
    subprocess.run([ROOT / ".venv-runtime/bin/python", "-c", code, endpoint], check=True)
    return "pics"


def deliver(
    endpoint: str,
    pictures: list[bytes],
    *,
    sdk: Sdk = "runtime",
    clock_s: float = 0,
    variables: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """What a job with these pictures gave, into the bucket `pics`; a second entry has the times."""
    ours = {**OWNER, "BUCKET_ENDPOINT_URL": endpoint, "BAKERY_BUCKET": "pics"}
    given = {
        "environment": {**ours, **(variables or {})},
        "jobs": [[base64.b64encode(each).decode() for each in pictures]],
        "clock_s": clock_s,
    }
    done = subprocess.run(
        [ROOT / f".venv-{sdk}" / "bin" / "python", ROOT / "tests/integration/bucket_case.py"],
        input=json.dumps(given).encode(),
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(ROOT)},
        cwd=Path("/"),
        timeout=600,
        check=True,
    )
    assert b"s3cret" not in done.stdout
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [each for each in entries if "phase" not in each]


def fetch(link: str, monkeypatch: pytest.MonkeyPatch) -> requests.Response:
    """The link as a client opens it."""
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
    lead_here()
    return requests.get(link, timeout=60)


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(
    ("host", "region", "variables", "start"),
    [
        # Each vendor's host, whose region is found in it, and which the server holds the signature against.
        ("127.0.0.1", "us-east-1", {}, "/pics/"),
        ("s3.eu-west-2.amazonaws.com", "eu-west-2", {}, "/"),
        ("s3.eu-west-2.amazonaws.com", "eu-west-2", {"BAKERY_BUCKET_STYLE": "path"}, "/pics/"),
        (
            "s3.us-west-004.backblazeb2.com",
            "us-west-004",
            {"BAKERY_BUCKET_STYLE": "path"},
            "/pics/",
        ),
        ("fra1.digitaloceanspaces.com", "fra1", {}, "/"),
        ("storage.googleapis.com", "auto", {}, "/"),
        ("abc.r2.cloudflarestorage.com", "auto", {"BAKERY_BUCKET_STYLE": "path"}, "/pics/"),
        ("minio.example", "fra1", {"BAKERY_BUCKET_REGION": "fra1"}, "/pics/"),
    ],
)
def test_links_open(
    server: Server,
    pics: str,
    sdk: Sdk,
    host: str,
    region: str,
    variables: dict[str, str],
    start: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = server.endpoint(host, region)
    done, _ = deliver(endpoint, [PNG, JPEG, WEBP], sdk=sdk, variables=variables)
    for number, (link, data, kind) in enumerate(
        zip(done["links"], (PNG, JPEG, WEBP), ("png", "jpeg", "webp"), strict=True)
    ):
        answer = fetch(link, monkeypatch)
        assert answer.status_code == 200, answer.text
        assert answer.content == data
        assert answer.headers["Content-Type"] == f"image/{kind}"
        parts = urllib.parse.urlsplit(link)
        assert parts.path == f"{start}job-0/{number}.{kind}"
        assert parts.hostname == (host if start == "/pics/" else f"pics.{host}")
        assert urllib.parse.parse_qs(parts.query)["X-Amz-Expires"] == ["604800"]


def test_an_endpoint_that_holds_the_bucket(
    server: Server, pics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host, path in (("127.0.0.1", "/pics"), ("pics.fra1.digitaloceanspaces.com", "")):
        endpoint = server.endpoint(host, "fra1", path)
        done, _ = deliver(
            endpoint,
            [PNG],
            variables={
                "BAKERY_BUCKET": "",
                "BAKERY_BUCKET_REGION": "fra1",
                "BAKERY_BUCKET_PREFIX": "of/mine",
                "BAKERY_BUCKET_LINK_S": "600",
            },
        )
        (link,) = done["links"]
        assert fetch(link, monkeypatch).content == PNG
        assert "/of/mine/job-0/0.png?" in link
        assert "X-Amz-Expires=600&" in link


@pytest.mark.parametrize(
    ("region", "variables", "clock_s", "words"),
    [
        (
            "us-east-1",
            {"BAKERY_BUCKET": "nope"},
            0,
            "NoSuchBucket, there is no bucket of this name",
        ),
        (
            "us-east-1",
            {"BUCKET_SECRET_ACCESS_KEY": "wr0ng"},
            0,
            "SignatureDoesNotMatch, BUCKET_SECRET_ACCESS_KEY does not belong to BUCKET_ACCESS_KEY_ID",
        ),
        (
            "us-east-1",
            {"BUCKET_ACCESS_KEY_ID": "test:guest"},
            0,
            "AccessDenied, the key lacks the right to it",
        ),
        (
            "us-east-1",
            {},
            7200,
            "RequestTimeTooSkewed, the worker's clock and the bucket's differ too much",
        ),
        (
            "eu-west-2",
            {},
            0,
            "AuthorizationHeaderMalformed, it expects the region 'eu-west-2', not 'us-east-1': "
            "set BAKERY_BUCKET_REGION",
        ),
    ],
)
def test_refusals_in_words(
    server: Server, pics: str, region: str, variables: dict[str, str], clock_s: float, words: str
) -> None:
    endpoint = server.endpoint("127.0.0.1", region)
    error, _ = deliver(endpoint, [PNG], clock_s=clock_s, variables=variables)
    assert error["message"] == f"the bucket did not take the pictures: {words}"
    assert (error["code"], error["retryable"]) == ("storage_failed", False)
    assert "127.0.0.1" in error["detail"]
    for secret in ("test:", "test%3A", "wr0ng", "Signature="):
        assert secret not in json.dumps(error)


def test_a_worker_delivers(server: Server, pics: str, tmp_path: Path) -> None:
    environment = {
        **OWNER,
        "BUCKET_ENDPOINT_URL": server.endpoint("127.0.0.1", "us-east-1"),
        "BAKERY_BUCKET": pics,
        "BAKERY_TEST_OUTPUT": str(tmp_path / "out.json"),
    }
    job = json.dumps({"input": {**SMALL, "delivery": "s3", "batch_size": 2}})
    with running("runtime", tmp_path / "worker", "--test_input", job, **environment) as worker:
        assert worker.wait() == 0, worker.log
        assert "s3cret" not in worker.log
        assert "X-Amz-Signature" not in "".join(map(str, worker.entries()))
    output = json.loads((tmp_path / "out.json").read_text())
    pictures = [requests.get(each, timeout=60).content for each in output["images"]]
    assert all(each.startswith(b"\x89PNG") for each in pictures)
    assert len({hashlib.sha256(each).digest() for each in pictures}) == 2


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """An endpoint that reads each request and answers with this, or never."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                if answer is not None:
                    threading.Thread(target=reply, args=(connection,), daemon=True).start()

    def reply(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            # 100-continue: nobody sends the picture after a final answer.
            connection.sendall(answer or b"")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # A thread that waits in a closed socket, and is stopped and goes on, waits in the next one of its number.
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()
        for each in (*connections, listener):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def raw(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("answer", "words", "retryable"),
    [
        (raw("503 Slow", b"<Error><Code>SlowDown</Code></Error>"), "SlowDown, it asks for fewer requests", True),
        (raw("502 Bad", b"<html>nginx</html>"), "HTTP 502", True),
        (raw("403 No", b"<html>a captcha</html>"), "HTTP 403", False),
        (raw("403 No", b"<Error><Code>QuotaExceeded</Code></Error>"), "QuotaExceeded", False),
        (raw("404 No", b"{}"), "HTTP 404", False),
        (
            raw(
                "301 Moved",
                b"<Error><Code>PermanentRedirect</Code></Error>",
                "x-amz-bucket-region: eu-west-2",
            ),
            "PermanentRedirect, it expects the region 'eu-west-2', not 'us-east-1': set BAKERY_BUCKET_REGION",
            False,
        ),
        (b"SSH-2.0-x\r\n", "", True),
    ],
)  # fmt: skip
def test_other_answers(answer: bytes, words: str, retryable: bool) -> None:
    with answering(answer) as endpoint:
        error, _ = deliver(endpoint, [PNG])
    assert error["message"].startswith(f"the bucket did not take the pictures: {words}"), error
    assert (error["code"], error["retryable"]) == ("storage_failed", retryable)
    assert "captcha" not in error["message"]


class Picky(http.server.BaseHTTPRequestHandler):
    """As R2, GCS and B2 are reported to be: a checksum that they do not know is refused."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        said = {name.lower(): value for name, value in self.headers.items()}
        odd = [
            name
            for name in said
            if name.startswith(("x-amz-checksum", "x-amz-sdk-", "x-amz-trailer"))
        ]
        body = self.rfile.read(int(said.get("content-length", 0)))
        packed = "aws-chunked" in said.get("content-encoding", "") or body != PNG
        # in an answer of 200 too, botocore takes <Error> for one
        refusal = f"<Error><Code>{' '.join(odd)}</Code></Error>" if odd or packed else ""
        self._reply(501 if refusal else 200, refusal)

    def do_GET(self) -> None:
        self._reply(206, "x")

    def _reply(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize("sdk", SDKS)
def test_no_checksum_is_sent_that_nobody_asked_for(sdk: Sdk) -> None:
    picky = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Picky)
    threading.Thread(target=picky.serve_forever, args=(0.05,), daemon=True).start()
    variables = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported"}
    try:
        done, _ = deliver(
            f"http://127.0.0.1:{picky.server_port}", [PNG], sdk=sdk, variables=variables
        )
    finally:
        picky.shutdown()
        picky.server_close()
    assert len(done.get("links", [])) == 1, done


def test_a_link_that_does_not_open_is_an_error() -> None:
    """A key that may write and not read."""

    def serve() -> None:
        for answer in (
            raw("200 OK", b""),
            raw("403 No", b"<Error><Code>AccessDenied</Code></Error>"),
        ):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 100 Continue\r\n\r\n" if answer.startswith(b"HTTP/1.1 2") else b""
                )
                received = 0
                while answer.startswith(b"HTTP/1.1 2") and received < len(PNG):
                    received += len(connection.recv(65536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        error, _ = deliver(endpoint, [PNG])
    assert error["message"] == (
        "the pictures are in the bucket, but their links do not open: "
        "AccessDenied, the key lacks the right to it"
    )
    assert error["retryable"] is False


def test_a_bucket_that_does_not_answer_is_bounded() -> None:
    with answering(None) as endpoint:
        error, times = deliver(endpoint, [PNG], variables={"BAKERY_BUCKET_TIMEOUT_S": "2"})
    assert error["message"] == "the bucket did not take the pictures within 2 s"
    assert error["retryable"] is True
    assert times["times"][1] >= 2


def test_nobody_listens() -> None:
    error, _ = deliver(f"http://127.0.0.1:{free_port()}", [PNG])
    assert error["message"] == (
        "the bucket did not take the pictures: EndpointConnectionError, no connection to BUCKET_ENDPOINT_URL"
    )
