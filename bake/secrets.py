"""Secrets in text: found where it will be written down, masked where it is shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_plus, urlsplit

REMEDY = (
    "for a private git repository: the plain address, and BAKE_GIT_CREDENTIALS (docs/base.md#arguments); "
    "for a proxy: docker's config.json; for a package index: PIP_CONFIG_FILE"
)
"""How what needs a secret gets it without its being written down."""
SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIAL)(_ID)?$", re.IGNORECASE
)
_LEAST_LENGTH = 6
"""Shorter values are words that stand everywhere."""
_USER = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")
_PLAIN = re.compile(r"[^/@:\s]+:[^/@\s]+@(?!sha\d+:)[\w.-]+")
_QUERY = re.compile(r"(?<=\?)[^\s'\"<>)]*=[^\s'\"<>)]+")
_HEADER = re.compile(r"(?i)(?<=authorization)(['\"]?\s*[:=]\s*['\"]?)[^'\"\n]+")

_BEFORE_BYTES = 256
"""How far before a form it is looked for what must stand there."""
_NO_WORD = re.compile(rb"(?:\A|[^A-Za-z0-9_])\Z")
_NO_CAPITAL = re.compile(rb"(?:\A|[^A-Z0-9])\Z")
_HEX = rb"[0-9a-f]{32}(?![0-9a-f])"
_WHOLE = {
    *("sig", "sign", "se", "ske", "skt", "skoid", "sktid", "expires", "expiry", "policy"),
    *("auth", "jwt", "pwd", "pass", "hdnts", "hdnea", "hdntl", "googleaccessid"),
    *("st", "verify", "mac", "hmac", "code", "sid", "ticket", "session", "bearer"),
}
_PART = re.compile(
    r"token|secret|signature|passw|credential|authoriz|accesskey|apikey|keypair|sessionid|hmac"
)
_START = re.compile(r"xamz|xgoog|xoss|xcos|qsign|qak|qkeytime|tempurl")
"""Query parameters of addresses that let in whoever knows them. Read from the documentation of each: AWS
(`X-Amz-*`, older `AWSAccessKeyId`), CloudFront (`Policy`, `Signature`, `Key-Pair-Id`), Google (`X-Goog-*`,
older `GoogleAccessId`), Azure (`sig`, `se`, `sk*`), Alibaba (`OSSAccessKeyId`, `x-oss-*`), Tencent (`q-*`),
Swift (`temp_url_*`), Akamai (`hdnts`, `hdnea`), GitLab (`private_token`, `job_token`), Backblaze
(`Authorization`), Dropbox (`rlkey`), nginx (`st`), Cloudflare (`verify`), BunnyCDN (`bcdn_token`)."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What one kind of secret looks like.

    Each `form` begins with literal characters, since Python then looks for these at 2 GB/s; what must not
    stand before it is a second expression, since one that begins with a look-behind is tried at every byte,
    at 0.05 GB/s (measured with 3.11 on a layer of 200 MB).
    """

    kind: str
    form: re.Pattern[bytes]
    before: re.Pattern[bytes] | None = None
    """Must be found in the bytes before the form; it ends with `\\Z`."""

    def is_in(self, data: bytes) -> bool:
        """Whether some bytes hold it."""
        position = 0
        while found := self.form.search(data, position):
            start = found.start()
            if self.before is None or self.before.search(
                data[max(0, start - _BEFORE_BYTES) : start]
            ):
                return True
            position = start + 1
        return False


FORMS: Sequence[Form] = (
    Form(kind="a Hugging Face token", form=re.compile(rb"hf_[A-Za-z0-9]{30}"), before=_NO_WORD),
    Form(
        kind="a CivitAI token",
        form=re.compile(rb"token=" + _HEX),
        before=re.compile(rb"(?:civitai[^\s\"']{0,200}|[?&])\Z"),
    ),
    Form(kind="a bearer token", form=re.compile(rb"Bearer\s+" + _HEX)),
    Form(
        kind="a CivitAI token",
        form=re.compile(rb"CIVITAI_(?:API_)?(?:TOKEN|KEY)[\"']?\s*[=:]\s*[\"']?" + _HEX),
    ),
    Form(kind="a RunPod key", form=re.compile(rb"rpa_[A-Z0-9]{40}"), before=_NO_WORD),
    Form(kind="a GitHub token", form=re.compile(rb"gh[pousr]_[A-Za-z0-9]{36}"), before=_NO_WORD),
    Form(kind="a GitHub token", form=re.compile(rb"github_pat_[A-Za-z0-9_]{60}"), before=_NO_WORD),
    Form(kind="an AWS key", form=re.compile(rb"AKIA[A-Z2-7]{16}(?![A-Z0-9])"), before=_NO_CAPITAL),
    Form(
        kind="a private key",
        # with a body: programs that read keys name the header in their source
        form=re.compile(
            rb"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:\\+[rn]|\s){1,80}"
            rb"(?:[A-Za-z-]+: [^\n]{0,200}\n\s{0,80}){0,8}"
            rb"(?:[A-Za-z0-9+/]{40}|[A-Za-z0-9+/=\\\s]{8,400}-----END )"
        ),
    ),
)


def find_secret(text: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Why a text must not be written down, as `holds …`; None where nothing is known against it.

    Addresses with a user or a credential in their query, known forms of tokens, and this machine's own.
    """
    for word in re.split(r"[\s,'\"]+", text):
        reason = _of_address(word)
        if reason:
            return reason
    for form in FORMS:
        if form.is_in(text.encode()):
            return f"holds what looks like {form.kind}"
    own = _own_secrets(os.environ if environ is None else environ)
    return "holds a token of this machine's" if any(value in text for value in own) else None


def _of_address(word: str) -> str | None:
    if "://" not in word:
        return "holds an address with a user and a password in it" if _PLAIN.match(word) else None
    try:
        parts = urlsplit(word)
        user, password = parts.username, parts.password
    except ValueError:
        return None
    # ssh's user, such as git, is no secret
    if password is not None or (user is not None and not parts.scheme.endswith("ssh")):
        return "holds an address with a user or password in it"
    name = find_credential(word)
    return f"holds an address with {name}=… in it" if name else None


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


def mask_secrets(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text with `***` for this machine's tokens, known forms of tokens, users and queries of addresses."""
    masked = mask_tokens(text, environ)
    masked = _USER.sub("***", masked)
    masked = _QUERY.sub("***", masked)
    return _HEADER.sub(r"\1***", masked)


def mask_tokens(text: str, environ: Mapping[str, str] | None = None) -> str:
    """The text with `***` for this machine's tokens and known forms of tokens alone."""
    values = set(_own_secrets(os.environ if environ is None else environ))
    masked = text
    for value in sorted(values, key=len, reverse=True):
        masked = masked.replace(value, "***")
    data = masked.encode()
    for each in FORMS:
        # A form says how a token begins: what is longer goes whole.
        data = re.sub(each.form.pattern + rb"\w*", b"***", data)
    return data.decode()


def _own_secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """What the variables hold whose names say so, and the files that such names with `_FILE` point to."""
    for name, value in environ.items():
        text = ""
        if SECRET_NAME.search(name):
            text = value
        elif SECRET_NAME.search(name.removesuffix("_FILE")):
            with suppress(OSError, ValueError):
                text = Path(value).expanduser().read_text(encoding="utf-8").strip()
        if len(text) >= _LEAST_LENGTH:
            yield text
