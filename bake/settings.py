"""What the environment says to `bake`: one table, read and checked in one place.

Tokens are never shown, whatever prints this. What click options take from the environment, too, stands in the
table, so that a value that does not fit is named by its variable.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bake.errors import ManifestError
from runtime.files.policy import is_loopback_host

CIVITAI_URL = "https://civitai.com"
HUGGINGFACE_URL = "https://huggingface.co"
RUNPOD_URL = "https://api.runpod.io"
MAX_CONNECTIONS = 16
_A_DAY_S = 24 * 3600
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of the table."""

    name: str
    meaning: str
    default: str
    """For people; empty where there is none."""
    parse: Callable[[str], Any]
    """Makes the value of a text that is not empty; raises Unfit."""
    also: tuple[str, ...] = ()
    """Other names of it, the first that is set counts."""
    is_secret: bool = False
    """A token: never shown, and also taken from the file that `NAME_FILE` names."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names, `NAME_FILE` of secrets among them."""
        own = (self.name, *self.also)
        return tuple(
            each for name in own for each in ((name, f"{name}_FILE") if self.is_secret else (name,))
        )


class Unfit(ValueError):  # noqa: N818  # never raised to anybody: it is turned into a ManifestError
    """A value that does not fit; the text says what was expected."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise Unfit(f"{text} does not fit; expected a path") from error


def _certificates(text: str) -> Path:
    path = _path(text)
    if not path.exists():
        raise Unfit(f"{path} does not exist; expected a file of PEM certificates")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unfit(f"{path} cannot be read; expected a file of PEM certificates") from error
    if b"-----BEGIN " not in content:
        raise Unfit(f"{path} holds no certificate; expected a file of PEM certificates")
    return path


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # isdecimal alone also takes digits of other scripts, and int refuses very long ones
        is_whole = text.isascii() and text.isdecimal() and len(text) < 20
        if not is_whole or not least <= int(text) <= most:
            raise Unfit(f"{text[:40]} does not fit; expected {least} to {most}")
        return int(text)

    return parse


def _seconds(text: str) -> float:
    return float(_whole(1, 3600)(text))


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise Unfit(f"{text[:40]} does not fit; expected one of {', '.join(choices)}")
        return text

    return parse


def parse_flag(text: str) -> bool:
    """`1` or `0`, and the usual words. Raises Unfit."""
    if text.lower() not in _TRUE + _FALSE:
        raise Unfit(f"{text[:40]} does not fit; expected 1 or 0")
    return text.lower() in _TRUE


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(each.strip().lower() for each in text.split(",") if each.strip())
    for host in hosts:
        if not all(each.isalnum() or each in "-.:[]" for each in host):
            raise Unfit(f"{host[:60]} does not fit; expected names of hosts with commas between")
    return hosts


def _build_args(text: str) -> tuple[str, ...]:
    pairs = tuple(text.split())
    for pair in pairs:
        name, equals, _ = pair.partition("=")
        if not equals or not name.isidentifier():
            # the value may be a secret
            raise Unfit(f"{name[:40]!r} does not fit; expected NAME=VALUE, with spaces between")
    return pairs


def _base_url(text: str) -> str:
    text = text.rstrip("/")
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        _ = url.port
    except ValueError as error:
        raise Unfit("not a valid address; expected such as https://mirror.example") from error
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise Unfit(
            "an address with a user, password or query in it would leak",
            hint="give the plain address, such as https://mirror.example",
        )
    if not host or not is_sealed(text):
        raise Unfit(f"{text} is not an https address (http is for 127.0.0.1 and localhost only)")
    return text


def is_sealed(url: str) -> bool:
    """Whether nobody on the way can read what goes there: https, or http on this machine itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(host))


def _token(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise Unfit(
            "the token holds spaces or characters that no token has",
            hint="copy it again from the account's settings",
        )
    return text


def _password(text: str) -> str:
    if not text.isprintable():
        raise Unfit("the password does not fit; expected one line that can be typed")
    return text


def _variable(
    name: str,
    parse: Callable[[str], Any],
    meaning: str,
    *,
    default: Any = None,
    shown: str | None = None,
    also: tuple[str, ...] = (),
    is_secret: bool = False,
) -> Any:
    """A field that `$NAME` sets; `shown` is how the table names its default."""
    row = Variable(
        name=name,
        meaning=meaning,
        default=str("" if default is None else default) if shown is None else shown,
        parse=parse,
        also=also,
        is_secret=is_secret,
    )
    metadata = {"variable": row}
    if callable(default):
        return field(default_factory=default, repr=not is_secret, metadata=metadata)
    return field(default=default, repr=not is_secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What this machine decides, rather than a manifest."""

    # fmt: off
    store: Path = _variable("BAKE_STORE", _path, "folder of the store of weights", default=lambda: _path("~/.cache/bakery/store"), shown="~/.cache/bakery/store")
    cache: Path = _variable("BAKE_CACHE", _path, "folder of compiled wheels and other things that can be made again", default=lambda: _path("~/.cache/bakery"), shown="~/.cache/bakery")
    xformers_wheel: Path | None = _variable("BAKE_XFORMERS_WHEEL", _path, "a ready-made [xformers wheel](base.md#the-xformers-wheel)")
    build_args: tuple[str, ...] = _variable("BAKE_BUILD_ARGS", _build_args, "build arguments as with `--build-arg`: `NAME=VALUE`, with spaces between; `PYTHON_IMAGE`, and those of [base.md](base.md)", default=(), shown="")
    device: str = _variable("BAKE_DEVICE", _one_of("auto", "cuda", "cpu"), "what the warm-up draws on: `auto`, `cuda` or `cpu`", default="auto")
    warmup_start_timeout_s: int = _variable("BAKE_WARMUP_START_TIMEOUT_S", _whole(1, _A_DAY_S), "seconds in which the warm-up's webui must have loaded the model", default=900)
    warmup_draw_timeout_s: int = _variable("BAKE_WARMUP_DRAW_TIMEOUT_S", _whole(1, _A_DAY_S), "seconds in which it must have drawn", default=1800)
    ca_bundle: Path | None = _variable("BAKE_CA_BUNDLE", _certificates, "certificates (PEM) that sources, registries and builds trust in addition to the system's")
    system_certificates: Path | None = _variable("SSL_CERT_FILE", _certificates, "certificates in place of the system's, for sources, registries and builds; `REQUESTS_CA_BUNDLE` does the same", also=("REQUESTS_CA_BUNDLE",))
    git_credentials: Path | None = _variable("BAKE_GIT_CREDENTIALS", _path, "file of git's credential store (lines such as `https://user:token@host`), lent to builds that fetch [private repositories](base.md#arguments)")
    push_chunk_mib: int | None = _variable("BAKE_PUSH_CHUNK_MIB", _whole(1, 1 << 20), "most MiB of one request's body in a [push](images.md#registries); unset: a blob is one request")
    push_parallel: int = _variable("BAKE_PUSH_PARALLEL", _whole(1, 64), "blobs that are pushed at once", default=4)
    storage_hosts: tuple[str, ...] = _variable("BAKE_STORAGE_HOSTS", _hosts, "further hosts that CivitAI, Hugging Face or their mirrors may redirect to, with commas between; `.example.com` means all below it", default=(), shown="")
    connections: int | None = _variable("BAKE_CONNECTIONS", _whole(1, MAX_CONNECTIONS), "connections for one file, 1 to 16", shown="2, Hugging Face 4")
    stall_s: float = _variable("BAKE_STALL_SECONDS", _seconds, "seconds of silence after which a connection counts as dead", default=30.0, shown="30")
    debug: bool = _variable("BAKE_DEBUG", parse_flag, "`1`: as `--debug`", default=False, shown="")
    civitai_url: str = _variable("CIVITAI_BASE_URL", _base_url, "CivitAI, or a mirror of it", default=CIVITAI_URL)
    huggingface_url: str = _variable("HF_ENDPOINT", _base_url, "Hugging Face, or a mirror of it", default=HUGGINGFACE_URL)
    civitai_token: str | None = _variable("CIVITAI_TOKEN", _token, "sent to CivitAI, nowhere else; `CIVITAI_API_KEY` does the same", also=("CIVITAI_API_KEY",), is_secret=True)
    huggingface_token: str | None = _variable("HF_TOKEN", _token, "sent to Hugging Face, nowhere else; `HUGGING_FACE_HUB_TOKEN` does the same", also=("HUGGING_FACE_HUB_TOKEN",), is_secret=True)
    runpod_url: str = _variable("RUNPOD_API_URL", _base_url, "RunPod's API, or a stand-in for trials", default=RUNPOD_URL)
    runpod_token: str | None = _variable("RUNPOD_API_KEY", _token, "an API key with read and write access to Serverless; sent to RunPod, nowhere else", is_secret=True)
    signing_password: str | None = _variable("BAKE_KEY_PASSWORD", _password, "the password of the key that `bake sign IMAGE --key FILE` signs with", is_secret=True)
    sigstore_token: str | None = _variable("SIGSTORE_ID_TOKEN", _token, "an OIDC token to sign with instead of a key, where no CI job's own is at hand; sent to Sigstore, nowhere else", is_secret=True)
    # fmt: on
    backoff_s: float = 1.0
    """As `runtime.retry.Retry` has it, for sources."""

    @property
    def kept(self) -> Path:
        """The folder of `bake.image.kept`, beside the weights: it may be deleted at any time."""
        return self.store / "kept"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Reads every variable of the table.

        Raises:
            ManifestError: values that do not fit, all of them; shown unless they are secrets.
        """
        env = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        wrong: list[ManifestError] = []
        for name, variable in _fields():
            try:
                where, text = _find(variable, env)
            except ManifestError as error:
                wrong.append(error)
                continue
            if not text:
                continue
            try:
                values[name] = variable.parse(text)
            except Unfit as error:
                wrong.append(ManifestError(str(error), where=where, hint=error.hint))
        if len(wrong) > 1:
            lines = [f"  {each.where}: {each.what}" for each in wrong]
            head = f"the environment has {len(wrong)} mistakes:"
            raise ManifestError(
                "\n".join([head, *lines]), hint="docs/cli.md#environment has the variables"
            )
        if wrong:
            raise wrong[0]
        return cls(**values)


def variables() -> list[Variable]:
    """The table, for docs/cli.md."""
    return [variable for _, variable in _fields()]


def _fields() -> Iterator[tuple[str, Variable]]:
    for each in dataclasses.fields(Settings):
        if "variable" in each.metadata:
            yield each.name, each.metadata["variable"]


def _find(variable: Variable, env: Mapping[str, str]) -> tuple[str, str]:
    """The first of its names that is set and not empty, and the text; of `NAME_FILE`, the file's."""
    for name in variable.names:
        text = (env.get(name) or "").strip()
        if text and variable.is_secret and name.endswith("_FILE"):
            try:
                text = Path(text).expanduser().read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError, RuntimeError) as error:
                raise ManifestError(f"{env[name]} cannot be read", where=name) from error
        if text:
            return name, text
    return variable.name, ""
