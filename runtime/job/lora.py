"""LoRAs and embeddings of a request: baked ones by name, others fetched once and kept under a size limit.

Their bytes live in the cache (on the network volume, if there is one). The webui sees a link to a LoRA in its own
folder, whose name holds the digest, so that it can never stand in for a baked one. It knows an embedding by the word
that prompts say: such a file is there for its job only, as a copy.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.clock import clock
from runtime.errors import FieldError, JobError
from runtime.files.addresses import STORAGE_HOSTS, resolve
from runtime.files.embedding_kinds import EmbeddingFacts, recognise_embedding
from runtime.files.errors import RETRYABLE, WeightsError
from runtime.files.fetch import fetch_url
from runtime.files.http import Credentials, Timeouts
from runtime.files.lora_kinds import LoraFacts, recognise_lora
from runtime.files.policy import HostPolicy, show_url
from runtime.files.safetensors import Header, data_sha256, read_header
from runtime.job.rules.models import AUTOV3_CHARS, FileRequest, LoraRequest
from runtime.log import log
from runtime.settings import Settings
from runtime.worker import Role, Worker

VOLUME = Path("/runpod-volume")
"""Where RunPod mounts a network volume."""
_LINKS = "from-requests"
_IN_USE_S = 600
"""A file used so recently may be in another worker's hands: it is not evicted."""
_BYTES_IN_MB = 1_000_000
_TICK_NS = 1_000_000


Facts = LoraFacts | EmbeddingFacts | None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a request may bring; `role` is also the start of its error codes."""

    role: Role
    field: str
    word: str
    max_mb: float = float("inf")
    recognise: Callable[[Header], Facts]


LORA = Kind(
    role="lora",
    field="loras",
    word="LoRA",
    recognise=lambda header: recognise_lora(header.tensors, header.metadata),
)
EMBEDDING = Kind(
    role="embedding",
    field="embeddings",
    word="embedding",
    max_mb=10,  # the longest of SDXL's has 0.6
    recognise=lambda header: recognise_embedding(header.tensors),
)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A file that is ready for the webui."""

    name: str
    """As the request has it."""
    tag: str
    """As the webui knows it."""
    scale: float = 1.0
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
        self,
        requests: Sequence[FileRequest],
        *,
        deadline: float,
        cancelled: threading.Event,
        kind: Kind = LORA,
    ) -> list[Applied]:
        """Makes every file of a kind that a job asks for visible to the webui; blocks while it fetches.

        Raises:
            JobError: `lora_refused`, `lora_unavailable` or the like, naming the entry.
        """
        applied = []
        if kind is EMBEDDING:
            self._forget_embeddings()
        for number, request in enumerate(requests):
            try:
                applied.append(self._prepare_one(request, kind, deadline, cancelled))
            except WeightsError as error:
                log("ERROR", kind.role, str(error), kind=error.kind)
                raise self._failure(error, kind, request.name, number) from error
            except OSError as error:
                log("ERROR", kind.role, repr(error))
                what = f"the {kind.word} could not be stored"
                raise JobError(f"{kind.role}_unavailable", what) from error
        if not all(each.was_cached for each in applied):
            self._evict()
        return applied

    def _prepare_one(
        self, request: FileRequest, kind: Kind, deadline: float, cancelled: threading.Event
    ) -> Applied:
        tag, source, was_cached = request.name, "baked", True
        if request.is_baked:
            baked = next(each for each in self._worker.of_role(kind.role) if each.name == tag)
            sha256 = baked.sha256
            _check_hash(Path(baked.path), sha256, request.sha256_prefix or "")
        else:
            url = self._address(request)
            path, was_cached = self._find_or_fetch(url, request, kind, deadline, cancelled)
            sha256, source = _digest_of(path), show_url(url)
            if kind is EMBEDDING:
                self._show_embedding(tag, path)
            else:
                tag = f"{request.name}-{sha256[:12]}"
                self._link(tag, path)
        scale = request.scale if isinstance(request, LoraRequest) else 1.0
        return Applied(
            name=request.name, tag=tag, scale=scale, sha256=sha256, source=source,
            was_cached=was_cached,
        )  # fmt: skip

    def _address(self, request: FileRequest) -> str:
        """An address that may be asked for; pages of CivitAI and Hugging Face become their files."""
        try:
            named = request.url or request.civitai or ""
            url = resolve(named, civitai_url=self._settings.civitai_url)
        except WeightsError:
            if request.url is not None:
                self._asked.check_url(request.url)
            raise
        self._asked.check_url(url)
        return url

    def _find_or_fetch(
        self,
        url: str,
        request: FileRequest,
        kind: Kind,
        deadline: float,
        cancelled: threading.Event,
    ) -> tuple[Path, bool]:
        """The file in the cache and whether it was there; two workers fetch one address once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = request.sha256_prefix or ""
        key = hashlib.sha256(url.encode()).hexdigest()[:32]
        with _locked(self.folder / f"{key}.lock"):
            others = list(self.folder.glob(f"{key}-*.safetensors"))
            for path in others:
                if _is_meant(path, _digest_of(path), prefix):
                    # Another worker may have fetched it, for another use or another model.
                    self._check_use(_facts_of(path, kind), kind)
                    os.utime(path, (time.time(), path.stat().st_mtime))
                    return path, True
            fetched = self._fetch(
                url, key, prefix, kind=kind, deadline=deadline, cancelled=cancelled
            )
            # Only now: a request with a wrong hash must not take a good file from the others.
            for path in others:
                path.unlink(missing_ok=True)
            return fetched, False

    def _fetch(
        self,
        url: str,
        key: str,
        prefix: str,
        *,
        kind: Kind,
        deadline: float,
        cancelled: threading.Event,
    ) -> Path:
        began = time.monotonic()
        fetched = fetch_url(
            url,
            self.folder / f"{key}.new",
            policy=self._followed,
            max_bytes=int(min(self._settings.lora_max_mb, kind.max_mb) * _BYTES_IN_MB),
            timeouts=Timeouts(total_s=min(self._settings.lora_timeout_s, deadline - clock.now())),
            sha256=prefix if len(prefix) == 64 else None,
            credentials=next((each for each in self._credentials if each.fits(url)), None),
            cancelled=cancelled,
        )
        try:
            _check_hash(fetched.path, fetched.sha256, prefix)
            self._check_use(kind.recognise(read_header(fetched.path)), kind)
        except WeightsError:
            fetched.path.unlink()
            raise
        seconds = round(time.monotonic() - began, 3)
        log(
            "INFO", kind.role, "fetched", url=fetched.url, bytes=fetched.size_bytes, seconds=seconds
        )
        return fetched.path.replace(self.folder / f"{key}-{fetched.sha256}.safetensors")

    def _check_use(self, facts: Facts, kind: Kind) -> None:
        """Is it what it was asked for as, and can this image's model use it?"""
        family = self._worker.family
        if facts is None:
            raise WeightsError("role", f"the file is no {kind.word}")
        if facts.family not in {None, family}:
            what = f"the {kind.word} is for {facts.family}, this model is {family}"
            raise WeightsError("family", what)
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

    def _show_embedding(self, name: str, path: Path) -> None:
        """A copy, since the webui keeps a hash by the name until a file is newer."""

        def copy(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / f"{name}.safetensors")

        self._change_embeddings(copy)

    def _forget_embeddings(self) -> None:
        """Those of the job before."""
        folder = self._worker.webui.embedding_dir
        if folder and Path(folder, _LINKS).is_dir():
            self._change_embeddings(lambda links: shutil.rmtree(links, ignore_errors=True))

    def _change_embeddings(self, change: Callable[[Path], None]) -> None:
        """The webui looks again when its own folder is newer, whatever is in it; a clock may have been set back."""
        folder = Path(self._worker.webui.embedding_dir)
        before = folder.stat().st_mtime_ns if folder.exists() else 0
        change(folder / _LINKS)
        now = max(time.time_ns(), before + _TICK_NS)
        for each in (folder, *folder.glob(f"{_LINKS}/*")):
            os.utime(each, ns=(now, now))

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

    def _failure(self, error: WeightsError, kind: Kind, name: str, number: int) -> JobError:
        """What the client may know: not what a name resolves to in here, and no file's name."""
        what, hosts = error.what, self._settings.lora_hosts
        if error.kind in {"host", "redirect", "unlisted", "form"}:
            what = f"the address is not allowed; files come by https from {hosts}"
        code = f"{kind.role}_{'unavailable' if error.kind in RETRYABLE else 'refused'}"
        fields = [FieldError(field=f"{kind.field}[{number}]", message=what)]
        return JobError(code, f"{kind.word} {name!r}: {what}", fields=fields)


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
def _facts_of(path: Path, kind: Kind) -> Facts:
    """Of a file of the cache, whose name holds its digest."""
    return kind.recognise(read_header(path))


@functools.lru_cache(maxsize=256)
def _data_digest(_sha256: str, path: Path) -> str:
    """By the whole file's digest, under which it is the same wherever it lies."""
    return data_sha256(path)
