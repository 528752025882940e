"""LoRAs of a request: baked ones by name, others fetched once and kept under a size limit.

A fetched file's name holds its digest, so it can never stand in for a baked one. Its bytes live in the
cache (on the network volume, if there is one); the webui sees a link in its own folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.clock import clock
from runtime.errors import FieldError, JobError
from runtime.files.addresses import STORAGE_HOSTS, resolve
from runtime.files.errors import RETRYABLE, WeightsError
from runtime.files.fetch import fetch_url
from runtime.files.http import Credentials, Timeouts
from runtime.files.lora_kinds import recognise_lora
from runtime.files.policy import HostPolicy, show_url
from runtime.files.safetensors import data_sha256, read_header
from runtime.job.asked import AUTOV3_CHARS, LoraRequest
from runtime.log import log
from runtime.settings import Settings
from runtime.worker import Worker

VOLUME = Path("/runpod-volume")
"""Where RunPod mounts a network volume."""
_LINKS = "from-requests"
_IN_USE_S = 600
"""A file used so recently may be in another worker's hands: it is not evicted."""
_BYTES_IN_MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A LoRA that is ready for the webui."""

    name: str
    """As the request has it."""
    tag: str
    """As the webui knows it."""
    scale: float
    sha256: str
    source: str
    """`baked`, or the address without its query."""
    was_cached: bool


class LoraStore:
    """The cache of one worker, shared with others on a network volume.

    Args:
        settings: Hosts, sizes, times.
        worker: What is baked, its family, the webui's folder.
        tokens: `CIVITAI_TOKEN` and `HF_TOKEN`, by origin; sent nowhere else.
    """

    def __init__(self, settings: Settings, worker: Worker, tokens: dict[str, str]) -> None:
        self._settings = settings
        self._worker = worker
        self._credentials = [
            Credentials(origin=origin, value=f"Bearer {token}") for origin, token in tokens.items()
        ]
        hosts = tuple(filter(None, settings.lora_hosts.lower().replace(" ", "").split(",")))
        self._asked = HostPolicy(hosts=hosts, loopback=settings.lora_loopback)
        self._followed = HostPolicy(hosts=(*hosts, *STORAGE_HOSTS), loopback=settings.lora_loopback)
        on_volume = VOLUME / "bakery/loras" if VOLUME.is_dir() else Path("/tmp/bakery/loras")  # noqa: S108
        self.folder = Path(settings.lora_cache) if settings.lora_cache else on_volume

    def prepare(
        self, requests: Sequence[LoraRequest], *, deadline: float, cancelled: threading.Event
    ) -> list[Applied]:
        """Makes every LoRA of a job visible to the webui; blocks while it fetches.

        Raises:
            JobError: `lora_refused` or `lora_unavailable`, naming the entry.
        """
        applied = []
        for number, request in enumerate(requests):
            try:
                applied.append(self._prepare_one(request, deadline, cancelled))
            except WeightsError as error:
                log("ERROR", "lora", str(error), kind=error.kind)
                raise self._failure(error, request.name, f"loras[{number}]") from error
            except OSError as error:
                log("ERROR", "lora", repr(error))
                raise JobError("lora_unavailable", "the LoRA could not be stored") from error
        if not all(each.was_cached for each in applied):
            self._evict()
        return applied

    def _prepare_one(
        self, request: LoraRequest, deadline: float, cancelled: threading.Event
    ) -> Applied:
        tag, source, was_cached = request.name, "baked", True
        if request.is_baked:
            baked = next(each for each in self._worker.of_role("lora") if each.name == tag)
            sha256 = baked.sha256
            _check_hash(Path(baked.path), sha256, request.sha256_prefix or "")
        else:
            url = self._address(request)
            path, was_cached = self._find_or_fetch(url, request, deadline, cancelled)
            sha256, source = _digest_of(path), show_url(url)
            tag = f"{request.name}-{sha256[:12]}"
            self._link(tag, path)
        return Applied(
            name=request.name, tag=tag, scale=request.scale, sha256=sha256, source=source,
            was_cached=was_cached,
        )  # fmt: skip

    def _address(self, request: LoraRequest) -> str:
        """An address that may be asked for; pages of CivitAI and Hugging Face become their files."""
        try:
            named = request.url or request.civitai or ""
            url = resolve(named, civitai_url=self._settings.civitai_url)
        except WeightsError:
            if request.url is None:
                raise
            self._asked.check_url(request.url)
            if "/resolve/" not in request.url:
                raise
            url = request.url  # of a repository without an owner
        self._asked.check_url(url)
        return url

    def _find_or_fetch(
        self, url: str, request: LoraRequest, deadline: float, cancelled: threading.Event
    ) -> tuple[Path, bool]:
        """The file in the cache and whether it was there; two workers fetch one address once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = request.sha256_prefix or ""
        key = hashlib.sha256(url.encode()).hexdigest()[:32]
        with _locked(self.folder / f"{key}.lock"):
            others = list(self.folder.glob(f"{key}-*.safetensors"))
            for path in others:
                if _is_meant(path, _digest_of(path), prefix):
                    os.utime(path, (time.time(), path.stat().st_mtime))
                    return path, True
            fetched = self._fetch(url, key, prefix, deadline, cancelled)
            # Only now: a request with a wrong hash must not take a good file from the others.
            for path in others:
                path.unlink(missing_ok=True)
            return fetched, False

    def _fetch(
        self, url: str, key: str, prefix: str, deadline: float, cancelled: threading.Event
    ) -> Path:
        began = time.monotonic()
        fetched = fetch_url(
            url,
            self.folder / f"{key}.new",
            policy=self._followed,
            max_bytes=int(self._settings.lora_max_mb * _BYTES_IN_MB),
            timeouts=Timeouts(total_s=min(self._settings.lora_timeout_s, deadline - clock.now())),
            sha256=prefix if len(prefix) == 64 else None,
            credentials=next((each for each in self._credentials if each.fits(url)), None),
            cancelled=cancelled,
        )
        try:
            self._check(fetched.path, fetched.sha256, prefix)
        except WeightsError:
            fetched.path.unlink()
            raise
        seconds = round(time.monotonic() - began, 3)
        log("INFO", "lora", "fetched", url=fetched.url, bytes=fetched.size_bytes, seconds=seconds)
        return fetched.path.replace(self.folder / f"{key}-{fetched.sha256}.safetensors")

    def _check(self, path: Path, sha256: str, prefix: str) -> None:
        """Is it the file that was asked for, and a LoRA that this image's model can use?"""
        _check_hash(path, sha256, prefix)
        header, family = read_header(path), self._worker.family
        facts = recognise_lora(header.tensors, header.metadata)
        if facts is None:
            raise WeightsError("role", "the file is no LoRA")
        if facts.family not in {None, family}:
            raise WeightsError("family", f"the LoRA is for {facts.family}, this model is {family}")
        if facts.problem:
            raise WeightsError("kind", f"the webui cannot apply it: {facts.problem}")

    def _link(self, tag: str, path: Path) -> None:
        """Shows one cached file to the webui, which looks for names that it does not know by itself."""
        links = Path(self._worker.webui.lora_dir) / _LINKS
        links.mkdir(parents=True, exist_ok=True)
        for each in links.iterdir():
            if not each.exists():
                each.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            (links / f"{tag}.safetensors").symlink_to(path)

    def _evict(self) -> None:
        """Removes the least recently used until the limit holds; other workers may do the same."""
        files = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                files.append((path.stat().st_atime, path.stat().st_size, path))
        excess = sum(size for _, size, _ in files) - self._settings.lora_cache_mb * _BYTES_IN_MB
        for used_at, size, path in sorted(files):
            if excess > 0 and time.time() - used_at > _IN_USE_S:
                path.unlink(missing_ok=True)
                excess -= size
                log("INFO", "lora", "evicted", bytes=size)

    def _failure(self, error: WeightsError, name: str, where: str) -> JobError:
        """What the client may know: not what a name resolves to in here, and no file's name."""
        what, hosts = error.what, self._settings.lora_hosts
        if error.kind in {"host", "redirect", "unlisted", "form"}:
            what = f"the address is not allowed; files come by https from {hosts}"
        code = "lora_unavailable" if error.kind in RETRYABLE else "lora_refused"
        fields = [FieldError(field=where, message=what)]
        return JobError(code, f"LoRA {name!r}: {what}", fields=fields)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Held by one worker at a time; the kernel takes it from one that dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _digest_of(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _check_hash(path: Path, sha256: str, prefix: str) -> None:
    if not _is_meant(path, sha256, prefix):
        raise WeightsError("hash", f"the file has the SHA-256 {sha256}")


def _is_meant(path: Path, sha256: str, prefix: str) -> bool:
    """Whether a request's `hash` is the file's: its SHA-256 or the start of it, or CivitAI's AutoV3."""
    if sha256.startswith(prefix):
        return True
    return len(prefix) == AUTOV3_CHARS and _data_digest(sha256, path).startswith(prefix)


@functools.lru_cache(maxsize=256)
def _data_digest(_sha256: str, path: Path) -> str:
    """By the whole file's digest, under which it is the same wherever it lies."""
    return data_sha256(path)
