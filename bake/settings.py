"""What the environment says about sources and the store. Tokens are never shown, whatever prints this."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bake.errors import ManifestError
from runtime.files.policy import is_loopback_host

CIVITAI_URL = "https://civitai.com"
HUGGINGFACE_URL = "https://huggingface.co"
DEFAULT_STORE = "~/.cache/bakery/store"
MAX_CONNECTIONS = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where weights come from and go to, on this machine."""

    store: Path = field(default_factory=lambda: Path(DEFAULT_STORE).expanduser())
    civitai_url: str = CIVITAI_URL
    huggingface_url: str = HUGGINGFACE_URL
    civitai_token: str | None = field(default=None, repr=False)
    huggingface_token: str | None = field(default=None, repr=False)
    storage_hosts: tuple[str, ...] = ()
    """Further hosts that CivitAI, Hugging Face or their mirrors may redirect to."""
    ca_bundle: Path | None = None
    connections: int | None = None
    """Connections for one file; None leaves it to the source, whose default is polite."""
    stall_s: float = 30.0
    """Seconds without a byte after which a connection counts as dead."""
    backoff_s: float = 1.0
    """Seconds of pause after the second failure in a row; doubled at each further one, up to 30."""

    @property
    def kept(self) -> Path:
        """The folder of `bake.image.kept`, beside the weights: it may be deleted at any time."""
        return self.store / "kept"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Reads the variables of docs/weights.md.

        Raises:
            ManifestError: a variable does not fit; its value is shown only if it is no secret.
        """
        env = os.environ if environ is None else environ
        return cls(
            store=Path(env.get("BAKE_STORE") or DEFAULT_STORE).expanduser().absolute(),
            civitai_url=_base_url(env, "CIVITAI_BASE_URL", CIVITAI_URL),
            huggingface_url=_base_url(env, "HF_ENDPOINT", HUGGINGFACE_URL),
            civitai_token=_token(env, "CIVITAI_TOKEN", "CIVITAI_API_KEY"),
            huggingface_token=_token(env, "HF_TOKEN"),
            storage_hosts=tuple(
                host.strip().lower()
                for host in env.get("BAKE_STORAGE_HOSTS", "").split(",")
                if host.strip()
            ),
            ca_bundle=_existing_file(env, "BAKE_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
            connections=_count(env, "BAKE_CONNECTIONS", MAX_CONNECTIONS),
            stall_s=float(_count(env, "BAKE_STALL_SECONDS", 3600) or 30),
        )


def _base_url(env: Mapping[str, str], name: str, default: str) -> str:
    text = (env.get(name) or default).strip().rstrip("/")
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        _ = url.port
    except ValueError as error:
        raise ManifestError("not a valid address", where=name) from error
    if url.username is not None or url.password is not None or url.query:
        raise ManifestError(
            "an address with a user, password or query in it would leak",
            where=name,
            hint="give the plain address, such as https://mirror.example",
        )
    if not host or not is_sealed(text):
        raise ManifestError(
            f"{text} is not an https address (http is for 127.0.0.1 and localhost only)", where=name
        )
    return text


def is_sealed(url: str) -> bool:
    """Whether nobody on the way can read what goes there: https, or http on this machine itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(host))


def _token(env: Mapping[str, str], *names: str) -> str | None:
    """The first of `NAME` (a value) and `NAME_FILE` (a path) that is set and not empty."""
    for name in names:
        text = env.get(name)
        where = name
        if not text and env.get(f"{name}_FILE"):
            where = f"{name}_FILE"
            try:
                text = Path(env[where]).expanduser().read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ManifestError(f"{env[where]} cannot be read", where=where) from error
        text = (text or "").strip()
        if not text:
            continue
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ManifestError(
                "the token holds spaces or characters that no token has",
                where=where,
                hint="copy it again from the account's settings",
            )
        return text
    return None


def _existing_file(env: Mapping[str, str], *names: str) -> Path | None:
    for name in names:
        if env.get(name):
            path = Path(env[name]).expanduser()
            if not path.exists():
                raise ManifestError(f"{path} does not exist", where=name)
            return path
    return None


def _count(env: Mapping[str, str], name: str, most: int) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise ManifestError(f"{text} does not fit; expected 1 to {most}", where=name)
    return int(text)
