"""What every provider of weights gets: settings, store, console, and clients that know their host policy."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bake.certificates import trusted_certificates
from bake.console import Console
from bake.errors import BakeError, MachineError, ManifestError, SourceError
from bake.lock import Licence
from bake.settings import Settings
from bake.weights.store import Store
from runtime.files.errors import WeightsError
from runtime.files.http import Client, Credentials, Timeouts
from runtime.files.policy import HostPolicy, is_loopback_host


@dataclass(frozen=True, kw_only=True)
class Context:
    """The surroundings of one lock or fetch."""

    settings: Settings
    store: Store
    console: Console
    folder: Path = field(default_factory=Path)
    """Where relative `file:` sources start from: the manifest's folder."""

    def client(
        self,
        policy: HostPolicy,
        *,
        credentials: Credentials | None = None,
        login_hint: str = "open the address in a browser to see what it asks for",
    ) -> Client:
        """A client for one provider; the caller closes it."""
        settings = self.settings
        certificates = trusted_certificates(settings)
        return Client(
            policy,
            timeouts=Timeouts(stall_s=settings.stall_s),
            credentials=credentials,
            ca_bundle=str(certificates) if certificates else None,
            proxies_from_environment=True,
            login_hint=login_hint,
        )

    def site_client(
        self,
        base: str,
        *,
        public: str,
        storage_hosts: Sequence[str],
        token: str | None,
        login_hint: str,
    ) -> Client:
        """A client for a site, or a mirror of it, that redirects to storage of its own."""
        host = (urlsplit(base).hostname or "").lower()
        own = (host, *self.settings.storage_hosts)
        policy = HostPolicy(
            hosts=tuple(dict.fromkeys(each.lower() for each in (*storage_hosts, *own))),
            loopback=is_loopback_host(host),
            private_hosts=own if base != public else self.settings.storage_hosts,
        )
        credentials = Credentials(origin=base, value=f"Bearer {token}") if token else None
        return self.client(policy, credentials=credentials, login_hint=login_hint)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source says of the one file that a manifest names."""

    file_name: str
    url: str
    """Where the bytes come from, without query."""
    sha256: str | None
    """None where the source publishes none: then the file is downloaded once."""
    size_bytes: int | None = None
    """Exact; None where the source does not say."""
    about_bytes: int | None = None
    """Rounded: a sanity bound."""
    title: str | None = None
    model_id: int | None = None
    version_id: int | None = None
    file_id: int | None = None
    revision: str | None = None
    base_model: str | None = None
    published_at: str | None = None
    trigger_words: tuple[str, ...] = ()
    licence: Licence = field(default_factory=Licence)
    role: str | None = None
    """What the source says the file is, in our words; None where it does not say."""
    families: tuple[str, ...] | None = None
    """Families that the source's base model belongs to; None where it does not say."""


@dataclass(frozen=True, kw_only=True)
class Newer:
    """Something that was published after what a manifest pins."""

    source: str
    """What to write into the manifest."""
    title: str
    published_at: str | None
    base_model: str | None


def today() -> str:
    """The day in UTC; SOURCE_DATE_EPOCH, where set, decides (reproducible-builds.org).

    Raises:
        ManifestError: SOURCE_DATE_EPOCH is no such number.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    utc = datetime.timezone.utc
    try:
        now = datetime.datetime.fromtimestamp(int(epoch), utc) if epoch else None
    except (ValueError, OverflowError, OSError) as error:
        raise ManifestError(
            f"{epoch[:40]} is no number of seconds since 1970", where="SOURCE_DATE_EPOCH"
        ) from error
    return (now or datetime.datetime.now(utc)).date().isoformat()


def to_bake_error(error: WeightsError, *, where: str | None = None) -> BakeError:
    """The same failure as `bake` ends with it: a full disk is the machine's, all else the source's."""
    kind = MachineError if error.kind == "disk" else SourceError
    place = " at ".join(each for each in (where, error.where) if each)
    hint = error.hint
    if error.kind == "unlisted":
        hint = "if that is right, name it in BAKE_STORAGE_HOSTS"
    elif error.kind == "tls":
        hint = "name your network's certificates in BAKE_CA_BUNDLE"
    return kind(error.what, where=place or None, hint=hint)


@contextmanager
def bake_errors(where: str | None = None) -> Iterator[None]:
    """Raises `bake`'s errors for those of runtime.files."""
    try:
        yield
    except WeightsError as error:
        raise to_bake_error(error, where=where) from error
