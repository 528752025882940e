"""Where pictures go in a bucket: region, style and names from the variables that people set."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.errors import JobError, SettingsError
from runtime.job import bucket as module
from runtime.job.bucket import Bucket, Target
from runtime.job.vendors import read_host
from runtime.settings import Settings

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("domain", "region"),
    [
        ("s3.amazonaws.com", "us-east-1"),
        ("s3.eu-west-2.amazonaws.com", "eu-west-2"),
        ("s3-ap-southeast-2.amazonaws.com", "ap-southeast-2"),
        ("s3.dualstack.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("s3-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("fra1.digitaloceanspaces.com", "fra1"),
        (f"{ACCOUNT}.r2.cloudflarestorage.com", "auto"),
        (f"{ACCOUNT}.eu.r2.cloudflarestorage.com", "auto"),
        ("storage.googleapis.com", "auto"),
        ("s3.wasabisys.com", "us-east-1"),
        ("s3.eu-central-2.wasabisys.com", "eu-central-2"),
        ("s3.fr-par.scw.cloud", "fr-par"),
        ("s3.gra.io.cloud.ovh.net", "gra"),
        ("s3.eu-de.cloud-object-storage.appdomain.cloud", "eu-de"),
        ("nl-ams-1.linodeobjects.com", "nl-ams-1"),
        ("fsn1.your-objectstorage.com", "fsn1"),
        ("sos-ch-gva-2.exo.io", "ch-gva-2"),
        ("oss-eu-central-1.aliyuncs.com", "oss-eu-central-1"),
        ("fly.storage.tigris.dev", "auto"),
    ],
)
def test_hosts_say_their_region_and_their_bucket(domain: str, region: str) -> None:
    assert read_host(domain) == (domain, "", region, True)
    for bucket in ("pics", "my-pics.example", "s3"):
        # The account before R2's own domain cannot be told from a bucket with a dot in its name.
        # Alibaba's S3 addresses begin with s3 themselves.
        if ("r2." not in domain or "." not in bucket) and ("oss-" not in domain or bucket != "s3"):
            assert read_host(f"{bucket}.{domain}") == (domain, bucket, region, True)


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("localhost", ""),
        ("s3api-eu-ro-1.runpod.io", "eu-ro-1"),
        ("10.0.0.7", ""),
        ("minio.example.com", ""),
        ("s3.minio1.example.com", ""),
        ("s3.us-east-2.storage.example", "us-east-2"),
        ("pics.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("amazonaws.com.evil.example", ""),
    ],
)
def test_other_hosts_are_asked_with_the_bucket_in_the_path(host: str, region: str) -> None:
    assert read_host(host) == (host, "", region, False)


MONTH = time.strftime("%m-%y")


@pytest.mark.parametrize(
    ("endpoint", "settings", "expected"),
    [
        # As the SDK and the workers built on it have it: without a name, month and year are the bucket...
        ("http://10.0.0.7:9000", {}, ("http://10.0.0.7:9000", MONTH, "us-east-1", "", False)),
        # ...or begin the keys, in a bucket that the endpoint holds in its host or path.
        (
            "https://pics.s3.eu-west-2.amazonaws.com/",
            {},
            ("https://s3.eu-west-2.amazonaws.com", "pics", "eu-west-2", f"{MONTH}/", True),
        ),
        (
            f"https://{ACCOUNT}.r2.cloudflarestorage.com/pics",
            {},
            (f"https://{ACCOUNT}.r2.cloudflarestorage.com", "pics", "auto", f"{MONTH}/", True),
        ),
        (
            "http://minio:9000/pics/deep",
            {},
            ("http://minio:9000", "pics", "us-east-1", f"deep/{MONTH}/", False),
        ),
        (
            "http://minio:9000/pics",
            {"bucket": "pics"},
            ("http://minio:9000", "pics", "us-east-1", "", False),
        ),
        (
            "https://pics.fra1.digitaloceanspaces.com",
            {"bucket": "pics", "bucket_prefix": "/a/b/"},
            ("https://fra1.digitaloceanspaces.com", "pics", "fra1", "a/b/", True),
        ),
        (
            "http://minio:9000/pics",
            {"bucket_prefix": "a"},
            ("http://minio:9000", "pics", "us-east-1", "a/", False),
        ),
        # A path before a bucket with another name is the server's.
        (
            "https://x.supabase.co/storage/v1/s3",
            {"bucket": "pics", "bucket_region": "eu-central-1"},
            ("https://x.supabase.co/storage/v1/s3", "pics", "eu-central-1", "", False),
        ),
        # No certificate is good for two labels before the domain.
        (
            "s3.us-west-004.backblazeb2.com",
            {"bucket": "my.pics"},
            ("https://s3.us-west-004.backblazeb2.com", "my.pics", "us-west-004", "", False),
        ),
        (
            "https://s3.eu-west-2.amazonaws.com",
            {"bucket": "pics", "bucket_style": "path"},
            ("https://s3.eu-west-2.amazonaws.com", "pics", "eu-west-2", "", False),
        ),
        (
            "https://s3.example.com",
            {"bucket": "pics", "bucket_style": "virtual"},
            ("https://s3.example.com", "pics", "us-east-1", "", True),
        ),
        ("http://[::1]:9000", {"bucket": "b"}, ("http://[::1]:9000", "b", "us-east-1", "", False)),
    ],
)
def test_where_pictures_go(endpoint: str, settings: dict[str, Any], expected: Any) -> None:
    found = Target.of(Settings(bucket_endpoint=endpoint, **settings))
    assert (
        found.endpoint,
        found.bucket,
        found.region,
        found.prefix,
        found.is_virtual,
    ) == expected


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("ftp://x", "is no http or https address"),
        ("https://", "is no http or https address"),
        ("https://a b", "is no http or https address"),
        ("https://x:port", "is no address"),
        ("https://[x", "is no address"),
        ("https://key:secret@x", "holds more than host, port and path"),
        ("https://x/?a=b", "holds more than host, port and path"),
    ],
)
def test_addresses_that_cannot_be_used(endpoint: str, words: str) -> None:
    with pytest.raises(JobError) as caught:
        Target.of(Settings(bucket_endpoint=endpoint))
    assert caught.value.code == "storage_not_configured"
    assert caught.value.message == f"BUCKET_ENDPOINT_URL {words}"


def test_two_buckets_are_a_mistake() -> None:
    with pytest.raises(JobError, match="holds the bucket 'a', BAKERY_BUCKET 'b': leave one"):
        Target.of(Settings(bucket="b", bucket_endpoint="https://a.s3.eu-west-2.amazonaws.com"))


@pytest.mark.parametrize("days", ["604801", "0", "-1", "soon"])
def test_links_live_at_most_a_week(days: str) -> None:
    with pytest.raises(SettingsError, match="BAKERY_BUCKET_LINK_S"):
        Settings.from_environment({"BAKERY_BUCKET_LINK_S": days})


def test_a_call_that_does_not_end_is_left_behind() -> None:
    forever = threading.Event()
    try:
        with pytest.raises(TimeoutError):
            module._run_by(time.monotonic() + 0.05, lambda _: forever.wait(), [1, 2])
    finally:
        forever.set()
    done: list[int] = []
    with pytest.raises(TimeoutError):  # not one was begun
        module._run_by(time.monotonic(), done.append, [1, 2])
    assert done == []
    module._run_by(time.monotonic() + 60, done.append, list(range(9)))
    assert sorted(done) == list(range(9))


def test_time_in_which_the_worker_was_frozen_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its own clock has stood since; for the rest of the world more has passed than was allowed.
    monkeypatch.setattr(module, "clock", SimpleNamespace(now=lambda: 10.0))
    done: list[int] = []

    def send(number: int) -> None:
        time.sleep(0.3)
        done.append(number)

    module._run_by(10.1, send, [1])
    assert done == [1]


def test_the_first_error_is_raised() -> None:
    def fail(number: int) -> None:
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="0"):
        module._run_by(time.monotonic() + 60, fail, [0])


def test_keys_are_in_no_representation() -> None:
    names = ("BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY")
    settings = Settings.from_environment(dict.fromkeys(names, "s3cret"))
    assert "s3cret" not in f"{settings!r} {Bucket(settings)!r}"
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"BUCKET_SECRET_ACCESS_KEY": "s3cret and"})
    assert "s3cret" not in str(caught.value)
