"""Addresses that let in whoever knows them: signed ones of object stores, and those with a token.

Read from the documentation of each: AWS (`X-Amz-*`, older `AWSAccessKeyId`), CloudFront (`Policy`,
`Signature`, `Key-Pair-Id`), Google (`X-Goog-*`, older `GoogleAccessId`), Azure (`sig`, `se`, `sk*`),
Alibaba (`OSSAccessKeyId`, `x-oss-*`), Tencent (`q-*`), Swift (`temp_url_*`), Akamai (`hdnts`, `hdnea`),
GitLab (`private_token`, `job_token`), Backblaze (`Authorization`), Dropbox (`rlkey`), nginx (`st`),
Cloudflare (`verify`), BunnyCDN (`bcdn_token`).
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus, urlsplit

_WHOLE = {
    *("sig", "sign", "se", "ske", "skt", "skoid", "sktid", "expires", "expiry", "policy"),
    *("auth", "jwt", "pwd", "pass", "hdnts", "hdnea", "hdntl", "googleaccessid"),
    *("st", "verify", "mac", "hmac", "code", "sid", "ticket", "session", "bearer"),
}
_PART = re.compile(
    r"token|secret|signature|passw|credential|authoriz|accesskey|apikey|keypair|sessionid|hmac"
)
_START = re.compile(r"xamz|xgoog|xoss|xcos|qsign|qak|qkeytime|tempurl")


def find_credential(address: str) -> str | None:
    """The name of a query parameter that carries a credential or belongs to a signature; None without one.

    A fragment is never sent, but would be written down like the rest, so its parameters count as well.
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    for each in re.split(r"[&;]", f"{parts.query}&{parts.fragment}"):
        name = unquote_plus(each.partition("=")[0]).strip()
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        if (
            plain in _WHOLE
            or plain.endswith(("key", "sig"))
            or _PART.search(plain)
            or _START.match(plain)
        ):
            return name[:40]
    return None
