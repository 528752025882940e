"""What is known of S3 servers, as tables: their hosts with the regions, and their errors in words."""

from __future__ import annotations

import re
from typing import NamedTuple

_AREA = r"(?P<region>[a-z]{2,}(?:-[a-z]+)+-?\d+)"
_HOSTS = (
    (r"s3-accelerate(?:\.dualstack)?\.amazonaws\.com", ""),
    (r"s3(?:-external-1)?\.amazonaws\.com", "us-east-1"),
    (rf"s3(?:-fips)?[.-](?:dualstack\.)?{_AREA}\.amazonaws\.com(?:\.cn)?", ""),
    (r"[^.]+(?:\.(?:eu|us|fedramp))?\.r2\.cloudflarestorage\.com", "auto"),
    (r"storage(?:\.[a-z0-9-]+\.rep)?\.googleapis\.com", "auto"),
    (r"(?:fly\.storage\.tigris|t3\.storage)\.dev", "auto"),
    (r"s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com", ""),
    (r"s3\.wasabisys\.com", "us-east-1"),
    (r"s3\.(?P<region>[a-z0-9-]+)\.(?:wasabisys\.com|scw\.cloud|(?:io|perf)\.cloud\.ovh\.\w+)", ""),
    (r"s3\.(?:direct\.|private\.)?(?P<region>[a-z-]+)\.cloud-object-storage\.appdomain\.cloud", ""),
    (r"(?P<region>[a-z0-9-]+)\.digitaloceanspaces\.com", ""),
    (r"(?P<region>[a-z0-9-]+)\.(?:linodeobjects|your-objectstorage|vultrobjects)\.com", ""),
    (r"sos-(?P<region>[a-z0-9-]+)\.exo\.io", ""),
    (r"(?:s3\.)?(?P<region>oss-[a-z0-9-]+)\.aliyuncs\.com", ""),
    (r"cos\.(?P<region>[a-z0-9-]+)\.myqcloud\.com", ""),
)
"""Hosts that a bucket's name may stand before, each with its region where no group of the pattern is it.

From the vendors' own pages about their S3 endpoints.
"""
_PATH_HOSTS = (
    (r"s3api-(?P<region>[a-z0-9-]+)\.runpod\.io", ""),
    (r"storage\.yandexcloud\.net", "ru-central1"),
    (rf"(?:.+\.)?s3[.-]{_AREA}\..+", ""),
)
REGION_CODES = {
    "AuthorizationHeaderMalformed",
    "AuthorizationQueryParametersError",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
    "301",
    "307",
}
"""Errors of a bucket that is in another region, each with that region in its answer or not."""
WORDS = {
    "NoSuchBucket": "there is no bucket of this name",
    "InvalidBucketName": "the bucket's name is not valid there",
    "InvalidAccessKeyId": "BUCKET_ACCESS_KEY_ID is not known there",
    "SignatureDoesNotMatch": "BUCKET_SECRET_ACCESS_KEY does not belong to BUCKET_ACCESS_KEY_ID",
    "AccessDenied": "the key lacks the right to it",
    "RequestTimeTooSkewed": "the worker's clock and the bucket's differ too much",
    "EntityTooLarge": "a picture is larger than it takes",
    "SlowDown": "it asks for fewer requests",
    "EndpointConnectionError": "no connection to BUCKET_ENDPOINT_URL",
    "ConnectTimeoutError": "no connection to BUCKET_ENDPOINT_URL",
    "ReadTimeoutError": "no answer from BUCKET_ENDPOINT_URL",
    "SSLError": "the certificate of BUCKET_ENDPOINT_URL cannot be trusted",
    "ResponseParserError": "BUCKET_ENDPOINT_URL does not speak S3",
    "InvalidRegionError": "BAKERY_BUCKET_REGION is no region's name",
}
"""The servers' own error codes, and the names of botocore's errors."""


class Host(NamedTuple):
    """What an endpoint's host says."""

    domain: str
    """Without a bucket's name."""
    bucket: str
    region: str
    is_virtual: bool
    """Whether a bucket's name can stand before it."""


def read_host(host: str) -> Host:
    """Unknown hosts, addresses and names without a dot are asked with the bucket in the path, as MinIO wants it."""
    for pattern, fixed in _HOSTS:
        if found := re.fullmatch(rf"(?:(?P<bucket>.+?)\.)??(?P<domain>{pattern})", host):
            groups = found.groupdict()
            region = groups.get("region") or fixed
            return Host(groups["domain"], groups["bucket"] or "", region, is_virtual=True)
    for pattern, fixed in _PATH_HOSTS:
        if found := re.fullmatch(pattern, host):
            return Host(host, "", found.groupdict().get("region") or fixed, is_virtual=False)
    return Host(host, "", "", is_virtual=False)
