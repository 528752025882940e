"""Pictures to an S3 bucket, and links to them: AWS, R2, B2, GCS, Spaces, MinIO and their like.

The upload and the link are signed for one region, the endpoint's. boto3 follows a bucket into another one for
the upload only: the picture arrives, and its link does not open. So here a wrong region is an error.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from runtime.clock import clock
from runtime.errors import JobError
from runtime.job.vendors import REGION_CODES, WORDS, read_host
from runtime.retry import TRANSIENT_STATUSES
from runtime.settings import Settings

_SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}
_AT_ONCE = 4
_CONNECT_S = 5
_READ_S = 15
_OPENING = "GetObject"


def _not_configured(message: str) -> JobError:
    return JobError("storage_not_configured", message)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the pictures go."""

    endpoint: str
    bucket: str
    region: str
    prefix: str
    """What each key begins with: empty, or ending in a slash."""
    is_virtual: bool
    """Whether the bucket's name goes before the host's, else into the path."""

    @classmethod
    def of(cls, settings: Settings) -> Target:
        """Reads `$BUCKET_ENDPOINT_URL`, which may hold the bucket's name, in its host or in its path.

        What is left out is as the SDK has it: month and year are the bucket, or where the endpoint holds one,
        the beginning of each key.

        Raises:
            JobError: the address cannot be used.
        """
        scheme, name, port, path = _split(settings.bucket_endpoint)
        host, named = read_host(name), settings.bucket
        if host.bucket and named not in ("", host.bucket):
            what = f"BUCKET_ENDPOINT_URL holds the bucket {host.bucket!r}, BAKERY_BUCKET {named!r}"
            raise _not_configured(f"{what}: leave one of them out")
        first, _, rest = path.partition("/")
        base, month = "", time.strftime("%m-%y")
        if host.bucket:
            held, rest = host.bucket, path
        elif named in ("", first):
            held = first
        else:
            # A path that is not the bucket is the server's own: Supabase's, or that of a proxy.
            held, rest, base = "", "", path and f"/{path}"
        bucket = named or held or month
        start = settings.bucket_prefix or (month if held and not named else "")
        keys = [each for each in (*rest.split("/"), *start.split("/")) if each]
        fits = re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", bucket)
        styles = {"path": False, "virtual": True, "auto": host.is_virtual and bool(fits)}
        return cls(
            endpoint=f"{scheme}://{host.domain}{port}{base}",
            bucket=bucket,
            region=settings.bucket_region or host.region or "us-east-1",
            prefix="".join(f"{each}/" for each in keys),
            is_virtual=styles[settings.bucket_style],
        )


class Bucket:
    """A bucket, and the one client for it: made once, in the shadow of the webui's start where it is wanted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        needed = ("bucket_endpoint", "bucket_key_id", "bucket_secret")
        fields = settings.__dataclass_fields__
        self._missing = [
            fields[each].metadata["variable"] for each in needed if not getattr(settings, each)
        ]
        self._ready: tuple[Any, Target] | None = None
        self._links_open = False

    def prepare(self) -> None:
        """Makes the client before the first job, which would wait for it; a mistake is that job's error."""
        with contextlib.suppress(JobError):
            self._connect()

    def _connect(self) -> tuple[Any, Target]:
        """The client, which takes most of a second to make, and where it writes to.

        Raises:
            JobError: variables are missing or cannot be used.
        """
        if self._missing:
            raise _not_configured(f"this endpoint lacks {', '.join(self._missing)}")
        if self._ready is None:
            target = Target.of(self._settings)
            self._ready = self._make_client(target), target
        return self._ready

    def put(self, pictures: Sequence[bytes], folder: str) -> list[str]:
        """Writes `<prefix><folder>/<number>.<format>`; returns a link to each.

        Raises:
            JobError: the bucket refused one, or did not take all in time; what is there then stays there.
        """
        client, target = self._connect()
        deadline = clock.now() + self._settings.bucket_timeout_s
        links = [""] * len(pictures)

        def send(number: int) -> None:
            data = pictures[number]
            kind = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), "")
            where = {"Bucket": target.bucket, "Key": f"{target.prefix}{folder}/{number}.{kind}"}
            client.put_object(**where, Body=data, ContentType=f"image/{kind}")
            links[number] = client.generate_presigned_url(
                "get_object", Params=where, ExpiresIn=self._settings.bucket_link_s
            )

        numbers = list(range(len(pictures)))
        try:
            if numbers and not self._links_open:
                _run_by(deadline, send, [numbers.pop(0)])
                _run_by(deadline, self._open, [links[0]])
            _run_by(deadline, send, numbers)
        except TimeoutError:
            limit_s = self._settings.bucket_timeout_s
            what = f"the bucket did not take the pictures within {limit_s:g} s"
            raise JobError("storage_failed", what) from None
        except Exception as error:  # noqa: BLE001  # botocore makes its dozens of kinds at run time
            raise self._explain(error, target) from None
        return links

    def _open(self, link: str) -> None:
        """Proves once that links open: a key may write and not read, and some servers refuse signed links."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        start = {"Range": "bytes=0-0"}
        with requests.get(
            link, headers=start, timeout=(_CONNECT_S, _READ_S), stream=True
        ) as answer:
            status = answer.status_code
            if status in TRANSIENT_STATUSES:
                return  # says nothing of links; the next job's is tried
            if status >= 300:  # whatever the refusal: RunPod's own S3 knows no links at all
                body = answer.raw.read(4096).decode(errors="replace")
                about = dict(re.findall(r"<(Code|Message|Region)>([^<]*)<", body))
                meta = {"HTTPStatusCode": status}
                raise ClientError({"Error": about, "ResponseMetadata": meta}, _OPENING)
        self._links_open = True

    def _make_client(self, target: Target) -> Any:
        import boto3  # noqa: PLC0415  # half a second that only endpoints with a bucket need
        from botocore.config import Config  # noqa: PLC0415
        from botocore.exceptions import ClientError  # noqa: PLC0415

        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "virtual" if target.is_virtual else "path"},
            # Since boto3 1.36 the default sends headers that R2, GCS and B2 are reported to refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"mode": "standard", "total_max_attempts": 3},
        )
        try:
            client = boto3.session.Session().client(
                "s3",
                endpoint_url=target.endpoint,
                region_name=target.region,
                aws_access_key_id=self._settings.bucket_key_id,
                aws_secret_access_key=self._settings.bucket_secret,
                config=config,
            )
        except Exception as error:  # noqa: BLE001  # ValueError and botocore's own
            raise self._explain(error, target) from None

        def refuse_region(response: Any = None, operation: Any = None, **_: Any) -> None:
            # Before boto3 signs again for the other region, which the link would not be signed for.
            if response is not None and response[1].get("Error", {}).get("Code") in REGION_CODES:
                raise ClientError(response[1], operation.name)

        client.meta.events.register_first("needs-retry.s3", refuse_region)
        return client

    def _explain(self, error: Exception, target: Target) -> JobError:
        """The error in words, with the bucket's own code; the log gets its message without the keys."""
        answer = getattr(error, "response", None) or {}
        about, meta = answer.get("Error", {}), answer.get("ResponseMetadata", {})
        status = int(meta.get("HTTPStatusCode") or 0)
        code = str(about.get("Code") or (status if answer else type(error).__name__))
        words = WORDS.get(code, "")
        if code in REGION_CODES:
            expected = about.get("Region") or meta.get("HTTPHeaders", {}).get("x-amz-bucket-region")
            words = f"it expects {f'the region {expected!r}' if expected else 'another region'}"
            words += f", not {target.region!r}: set BAKERY_BUCKET_REGION"
        if not re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) or code.isdigit():
            code = f"HTTP {status}"
        what = "the bucket did not take the pictures"
        if getattr(error, "operation_name", "") == _OPENING:
            what = "the pictures are in the bucket, but their links do not open"
        detail = f"{target.bucket} at {target.endpoint}, region {target.region}: {error}"
        for secret in (self._settings.bucket_secret, self._settings.bucket_key_id):
            detail = detail.replace(secret, "***")
        detail = re.sub(r"\?\S*X-Amz-\S*", "?***", detail)
        # What the bucket itself refuses or sends elsewhere stays so until the operator changes something.
        is_final = 300 <= status < 500 and status not in TRANSIENT_STATUSES
        return JobError(
            "storage_failed",
            f"{what}: {code}{words and f', {words}'}",
            detail=detail,
            retryable=False if is_final else None,
        )


def _split(endpoint: str) -> tuple[str, str, str, str]:
    """Scheme, host, `:port` or nothing, path without its outer slashes."""
    text = endpoint if "://" in endpoint else f"https://{endpoint}"
    try:
        parts = urlsplit(text)
        port = f":{parts.port}" if parts.port else ""
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        raise _not_configured("BUCKET_ENDPOINT_URL is no address") from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:]+", host):
        raise _not_configured("BUCKET_ENDPOINT_URL is no http or https address")
    if parts.username is not None or parts.query or parts.fragment:
        raise _not_configured("BUCKET_ENDPOINT_URL holds more than host, port and path")
    return parts.scheme, f"[{host}]" if ":" in host else host, port, parts.path.strip("/")


def _run_by(deadline: float, call: Callable[[Any], object], arguments: Sequence[Any]) -> None:
    """Calls some at a time in threads that nobody waits for after the deadline, not even the end of the worker.

    Raises:
        TimeoutError: the deadline passed.
        Exception: the first that a call raised.
    """
    todo, done, errors = list(arguments), list[Any](), list[Exception]()

    def work() -> None:
        with contextlib.suppress(IndexError):  # the others have taken all
            while not errors and clock.now() < deadline:
                argument = todo.pop(0)
                try:
                    call(argument)
                    done.append(argument)
                except Exception as error:  # noqa: BLE001  # raised again by the caller
                    errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in todo[:_AT_ONCE]]
    for each in threads:
        each.start()
    for each in threads:
        while each.is_alive() and (left_s := deadline - clock.now()) > 0:
            each.join(min(1.0, left_s))
    if errors:
        raise errors[0]
    if len(done) < len(arguments):
        raise TimeoutError
