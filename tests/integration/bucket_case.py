"""Delivers pictures to a bucket in the worker's own environment; run as a script by tests/integration/test_bucket.py.

Standard input: `{"environment": {…}, "jobs": [[PNG in base64, …], …], "clock_s": …}`. Standard output: one JSON line
a job, its links or its error, then one with the times. Host names of real vendors lead to this machine.
"""

from __future__ import annotations

import base64
import datetime
import json
import os
import socket
import sys
import time
from typing import Any


def lead_here() -> None:
    """Every name resolves to 127.0.0.1, so that the endpoint can be called as the vendors call theirs."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        return resolve("127.0.0.1", *arguments, **options)

    socket.getaddrinfo = getaddrinfo


def main() -> None:
    given = json.load(sys.stdin)
    os.environ.update(given["environment"])
    lead_here()
    from runtime.errors import JobError  # noqa: PLC0415
    from runtime.job.bucket import Bucket  # noqa: PLC0415
    from runtime.settings import Settings  # noqa: PLC0415

    bucket = Bucket(Settings.from_environment())
    if wrong_s := given.get("clock_s"):
        import botocore.auth  # noqa: PLC0415

        now = botocore.auth.get_current_datetime
        shift = datetime.timedelta(seconds=wrong_s)
        botocore.auth.get_current_datetime = lambda *a, **k: now(*a, **k) + shift
    began = time.monotonic()
    bucket.prepare()
    times = [time.monotonic() - began]
    for number, job in enumerate(given["jobs"]):
        began = time.monotonic()
        try:
            links = bucket.put([base64.b64decode(each) for each in job], f"job-{number}")
            print(json.dumps({"links": links}))
        except JobError as error:
            print(json.dumps({**json.loads(error.to_json()), "detail": error.detail}))
        times.append(time.monotonic() - began)
    print(json.dumps({"times": times}))


if __name__ == "__main__":
    main()
