"""What the bucket is asked for through the SDK, and what a job is told of its errors.

The SDK is not beside the build tool: here is as much of its form as is used. tests/integration/test_bucket.py holds
the same against the real one and a real server.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import JobError
from runtime.job.bucket import Bucket
from runtime.settings import Settings
from tests.standins.http_server import Answer, Request, Server

PNG, JPEG, WEBP = b"\x89PNG 1", b"\xff\xd8\xff 2", b"RIFF 3"
SETTINGS = Settings(
    bucket_endpoint="https://s3.eu-west-2.amazonaws.com",
    bucket="pics",
    bucket_prefix="mine",
    bucket_key_id="AKIDKEY",
    bucket_secret="s3cret",
    bucket_link_s=77,
)


class ClientError(Exception):
    """botocore's: what the server said, and which call it was."""

    def __init__(self, response: dict[str, Any], operation_name: str) -> None:
        super().__init__(f"{operation_name}: {response['Error']} with AKIDKEY and s3cret")
        self.response, self.operation_name = response, operation_name


class Client:
    """boto3's client of S3, and all that makes one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.options: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.hooks: dict[str, Callable[..., None]] = {}
        self.put: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any], int]] = []
        self.error: Exception | None = None
        self.meta = SimpleNamespace(events=SimpleNamespace(register_first=self.hooks.setdefault))

    def client(self, service: str, *, config: dict[str, Any], **options: Any) -> Client:
        if self.error:
            raise self.error
        assert service == "s3"
        self.config, self.options = config, options
        return self

    def put_object(self, **options: Any) -> None:
        if self.error:
            raise self.error
        self.put.append(options)

    def generate_presigned_url(self, call: str, *, Params: dict[str, Any], ExpiresIn: int) -> str:
        self.asked.append((call, Params, ExpiresIn))
        return f"{self.server.url}/{Params['Key']}?X-Amz-Signature=abc"


@pytest.fixture
def answers() -> list[Answer]:
    """Of the server that links lead to; the last one stays."""
    return [Answer(status=206, body=b"x")]


@pytest.fixture
def client(answers: list[Answer], monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    def answer(_request: Request) -> Answer:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    server = Server("bucket", answer)
    made = Client(server)
    boto3, config, exceptions = (
        types.ModuleType(name) for name in ("boto3", "botocore.config", "botocore.exceptions")
    )
    boto3.session = SimpleNamespace(Session=lambda: made)  # type: ignore[attr-defined]
    config.Config = dict  # type: ignore[attr-defined]
    exceptions.ClientError = ClientError  # type: ignore[attr-defined]
    for module in (boto3, types.ModuleType("botocore"), config, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield made
    server.close()


def test_pictures_are_put_and_the_first_link_is_tried_once(client: Client) -> None:
    bucket = Bucket(SETTINGS)
    links = bucket.put([PNG, JPEG, WEBP], "job-1")
    keys = ["mine/job-1/0.png", "mine/job-1/1.jpeg", "mine/job-1/2.webp"]
    assert links == [f"{client.server.url}/{key}?X-Amz-Signature=abc" for key in keys]
    assert sorted((each["Key"], each["Bucket"], each["ContentType"], each["Body"]) for each in client.put) == [
        (keys[0], "pics", "image/png", PNG),
        (keys[1], "pics", "image/jpeg", JPEG),
        (keys[2], "pics", "image/webp", WEBP),
    ]  # fmt: skip
    assert client.put[0]["Key"] == keys[0]  # before the others: its link has to open
    assert sorted(each[1]["Key"] for each in client.asked) == keys
    assert {(call, where["Bucket"], seconds) for call, where, seconds in client.asked} == {
        ("get_object", "pics", 77)
    }
    (opened,) = client.server.requests
    assert opened.target == f"/{keys[0]}?X-Amz-Signature=abc"
    assert opened.headers["range"] == "bytes=0-0"
    assert len(bucket.put([PNG], "job-2")) == 1
    assert len(client.server.requests) == 1
    assert bucket.put([], "job-3") == []


def test_the_client_is_made_once_and_for_servers_of_all_vendors(client: Client) -> None:
    bucket = Bucket(SETTINGS)
    bucket.prepare()
    options = client.options
    bucket.put([PNG], "job")
    assert client.options is options
    assert options == {
        "endpoint_url": "https://s3.eu-west-2.amazonaws.com", "region_name": "eu-west-2",
        "aws_access_key_id": "AKIDKEY", "aws_secret_access_key": "s3cret",
    }  # fmt: skip
    assert client.config == {
        "signature_version": "s3v4", "s3": {"addressing_style": "virtual"},
        "request_checksum_calculation": "when_required", "response_checksum_validation": "when_required",
        "connect_timeout": 5, "read_timeout": 15,
        "retries": {"mode": "standard", "total_max_attempts": 3},
    }  # fmt: skip
    Bucket(Settings(bucket_endpoint="http://10.0.0.7:9000", bucket_key_id="k", bucket_secret="s")).prepare()  # fmt: skip
    assert client.config["s3"] == {"addressing_style": "path"}


def test_a_client_that_cannot_be_made_is_that_job_s_error(client: Client) -> None:
    class InvalidRegionError(Exception):
        pass

    client.error = InvalidRegionError("eu west")
    bucket = Bucket(SETTINGS)
    bucket.prepare()
    assert said(bucket) == (
        "the bucket did not take the pictures: InvalidRegionError, BAKERY_BUCKET_REGION is no region's name"
    )  # fmt: skip


def said(bucket: Bucket) -> str:
    with pytest.raises(JobError) as caught:
        bucket.put([PNG], "job")
    assert caught.value.code == "storage_failed"
    return caught.value.message


def refusal(code: str | None, status: int, **about: str) -> ClientError:
    error = {**about, **({} if code is None else {"Code": code})}
    headers = {"x-amz-bucket-region": "eu-north-1"}
    meta = {"HTTPStatusCode": status, "HTTPHeaders": headers if about.get("by") == "header" else {}}
    return ClientError({"Error": error, "ResponseMetadata": meta}, "PutObject")


OTHER = "the bucket did not take the pictures: "


@pytest.mark.parametrize(
    ("error", "message", "is_final"),
    [
        (refusal("NoSuchBucket", 404), "NoSuchBucket, there is no bucket of this name", True),
        (refusal("AccessDenied", 403), "AccessDenied, the key lacks the right to it", True),
        (refusal("SlowDown", 503), "SlowDown, it asks for fewer requests", False),
        (refusal("RequestTimeout", 408), "RequestTimeout", False),
        (refusal("Strange.Code7", 499), "Strange.Code7", True),
        (refusal("Moved", 300), "Moved", True),
        (refusal("InternalError", 500), "InternalError", False),
        (refusal("404", 404), "HTTP 404", True),
        (refusal(None, 418), "HTTP 418", True),
        (refusal("<script>", 400), "HTTP 400", True),
        (refusal("x" * 65, 400), "HTTP 400", True),
        (refusal("x" * 64, 400), "x" * 64, True),
        (TypeError("no server"), "TypeError", False),
        (refusal("PermanentRedirect", 301, Region="eu-north-1"),
         "PermanentRedirect, it expects the region 'eu-north-1', not 'eu-west-2': set BAKERY_BUCKET_REGION", True),
        (refusal("AuthorizationHeaderMalformed", 400, by="header"),
         "AuthorizationHeaderMalformed, it expects the region 'eu-north-1', not 'eu-west-2': set BAKERY_BUCKET_REGION", True),
        (refusal("301", 301),
         "HTTP 301, it expects another region, not 'eu-west-2': set BAKERY_BUCKET_REGION", True),
    ],
)  # fmt: skip
def test_an_error_in_words(client: Client, error: Exception, message: str, is_final: bool) -> None:
    bucket = Bucket(SETTINGS)
    bucket.prepare()
    client.error = error
    with pytest.raises(JobError) as caught:
        bucket.put([PNG], "job")
    assert caught.value.code == "storage_failed"
    assert caught.value.message == OTHER + message
    assert caught.value.retryable is (False if is_final else None)
    detail = caught.value.detail
    assert detail is not None
    assert detail.startswith("pics at https://s3.eu-west-2.amazonaws.com, region eu-west-2: ")
    assert "s3cret" not in detail
    assert "AKIDKEY" not in detail
    assert isinstance(error, TypeError) or detail.endswith(" with *** and ***")


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405])
def test_a_link_that_does_not_open_is_told_as_such(
    client: Client, answers: list[Answer], status: int
) -> None:
    body = (
        b"<Error><Code>AccessDenied</Code><Message>GET /x?X-Amz-Signature=abc no</Message></Error>"
    )
    answers[:] = [Answer(status=status, body=body)]
    bucket = Bucket(SETTINGS)
    with pytest.raises(JobError) as caught:
        bucket.put([PNG, JPEG], "job")
    assert caught.value.message == (
        "the pictures are in the bucket, but their links do not open: "
        "AccessDenied, the key lacks the right to it"
    )
    assert caught.value.retryable is False
    assert "Signature" not in str(caught.value.detail)
    assert "GET /x?*** no" in str(caught.value.detail)
    assert len(client.put) == 1
    answers[:] = [Answer(status=206, body=b"x")]
    assert len(bucket.put([PNG], "job")) == 1  # asked again, now that it may open
    assert len(client.server.requests) == 2


def test_only_a_refusal_says_that_links_do_not_open(client: Client, answers: list[Answer]) -> None:
    """A server that is busy says nothing of the link's signature."""
    answers[:] = [Answer(status=503)]
    bucket = Bucket(SETTINGS)
    assert len(bucket.put([PNG], "job")) == 1
    answers[:] = [Answer(status=206, body=b"x")]
    assert len(bucket.put([PNG], "job")) == 1  # it is asked for the next job
    assert len(bucket.put([PNG], "job")) == 1
    assert len(client.server.requests) == 2


def test_another_region_is_refused_before_the_sdk_signs_for_it(client: Client) -> None:
    Bucket(SETTINGS).prepare()
    (name,) = client.hooks
    assert name == "needs-retry.s3"
    operation = SimpleNamespace(name="PutObject")
    told = {"Error": {"Code": "PermanentRedirect"}}
    with pytest.raises(ClientError) as caught:
        client.hooks[name](response=(None, told), operation=operation, attempts=1)
    assert (caught.value.response, caught.value.operation_name) == (told, "PutObject")
    for response in (None, (None, {"Error": {"Code": "SlowDown"}}), (None, {})):
        client.hooks[name](response=response, operation=operation)


def test_what_is_not_configured_is_named(client: Client) -> None:
    with pytest.raises(JobError) as caught:
        Bucket(Settings(bucket_endpoint="https://x")).put([PNG], "job")
    assert caught.value.code == "storage_not_configured"
    assert caught.value.message == (
        "this endpoint lacks BUCKET_ACCESS_KEY_ID, BUCKET_SECRET_ACCESS_KEY"
    )


def test_a_bucket_that_hangs_is_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    forever = threading.Event()
    monkeypatch.setattr(client, "put_object", lambda **_: forever.wait())
    settings = Settings(**{**vars(SETTINGS), "bucket_timeout_s": 0.05})
    try:
        assert said(Bucket(settings)) == "the bucket did not take the pictures within 0.05 s"
    finally:
        forever.set()
