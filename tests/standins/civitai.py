"""A stand-in for CivitAI's API: records, the download redirect, tokens, quota, and every refusal.

Built from the facts of its own source; keys and texts are those of real answers, values are invented.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.standins.http_server import Answer, Request, Server, html_answer, json_answer
from tests.standins.storage import Blob, Storage, Style

Download = Literal[
    "ok",
    "quota",
    "quota_with_date",
    "bad_request",
    "not_found",
    "archived",
    "disabled",
    "login",
    "early_access",
    "grant",
    "region",
    "maintenance",
    "challenge",
    "error",
    "login_page",
    "strange_host",
]
Api = Literal[
    "ok",
    "region",
    "error",
    "maintenance",
    "challenge",
    "not_found",
    "no_file",
    "bad_request",
    "flaky",
]
GOOD_TOKEN = "good-token-0123456789abcdef"
OTHER_TOKEN = "other-token-0123456789abcde"
WEAK_TOKEN = "weak-token-0123456789abcdef"
"""Valid, but without the grant to download what needs a login."""
_BROWSERS = ("mozilla", "chrome", "safari", "firefox", "opera", "edge")


@dataclass(kw_only=True)
class CivitaiFile:
    """A file of a version."""

    file_id: int
    name: str
    blob: Blob
    type: str = "Model"
    primary: bool = True
    metadata: dict[str, str] = field(
        default_factory=lambda: {"format": "SafeTensor", "size": "pruned", "fp": "fp16"}
    )
    publishes_hash: bool = True
    says_sha256: str | None = None
    """Published in place of the true digest."""
    pickle_scan: str = "Success"
    virus_scan: str = "Success"

    @property
    def sha256(self) -> str:
        assert self.blob.data is not None
        return hashlib.sha256(self.blob.data).hexdigest()


@dataclass(kw_only=True)
class CivitaiVersion:
    """A version, and how its API and its download behave."""

    version_id: int
    model_id: int
    files: list[CivitaiFile] = field(default_factory=list)
    name: str = "v2.0"
    base_model: str = "Illustrious"
    status: str = "Published"
    published_at: str | None = "2025-03-02T09:16:12.062Z"
    usage_control: str = "Download"
    trained_words: list[str] = field(default_factory=list)
    download: Download = "ok"
    needs_login: bool = False
    api: Api = "ok"
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class CivitaiModel:
    """A model, with the licence that only its own record shows."""

    model_id: int
    name: str = "Example Real"
    type: str = "Checkpoint"
    licence: dict[str, Any] = field(
        default_factory=lambda: {
            "allowNoCredit": True,
            "allowCommercialUse": ["Image", "RentCivit", "Rent"],
            "allowDerivatives": True,
            "allowDifferentLicense": True,
        }
    )
    gone: bool = False


@dataclass(kw_only=True)
class Civitai:
    """The site."""

    storage: Storage
    models: dict[int, CivitaiModel] = field(default_factory=dict)
    versions: dict[int, CivitaiVersion] = field(default_factory=dict)
    style: Callable[[int], Style] = lambda _count: "r2"
    """Which storage a redirect leads to, by how many there were: CivitAI chooses anew each time."""
    quota: int | None = None
    """Redirects that an account gets."""
    preferences: dict[str | None, str] = field(default_factory=dict)
    """Token to file name: what a bare download address serves that account."""
    loud: bool = False
    port: int = 0
    server: Server = field(init=False)
    redirects: dict[str | None, int] = field(default_factory=dict)
    _flaky: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.server = Server("civitai", self.answer, loud=self.loud, port=self.port)

    @property
    def redirect_count(self) -> int:
        return sum(self.redirects.values())

    def add(self, version: CivitaiVersion, model: CivitaiModel | None = None) -> CivitaiVersion:
        self.versions[version.version_id] = version
        self.models.setdefault(version.model_id, model or CivitaiModel(model_id=version.model_id))
        for file in version.files:
            self.storage.blobs[f"{file.file_id}-{file.name}"] = file.blob
        return version

    def answer(self, request: Request) -> Answer:
        agent = request.headers.get("user-agent", "").lower()
        if agent.startswith("python-urllib"):
            return html_answer(403, "Forbidden")
        parts = [part for part in request.path.split("/") if part]
        if parts[:1] == ["login"]:
            return html_answer(200, "Sign in | Civitai")
        if request.method != "GET":
            return json_answer(405, {"error": "Method not allowed"})
        if parts[:3] == ["api", "download", "models"] and len(parts) == 4:
            answer = self._download(request, parts[3])
            if answer.status >= 400 and any(name in agent for name in _BROWSERS):
                target = "/login?returnUrl=%2Fmodels&reason=download-auth"
                return Answer(status=307, headers={"Location": target})
            return answer
        if parts[:2] == ["api", "v1"]:
            return self._api(request, parts[2:])
        return html_answer(404, "Not found")

    # --- /api/v1 ---

    def _api(self, request: Request, parts: list[str]) -> Answer:
        if parts == ["me"]:
            if self._account(request) is None:
                return json_answer(401, {"error": "Unauthorized"})
            return json_answer(200, {"id": 1, "username": "someone"})
        if len(parts) == 2 and parts[0] == "models" and parts[1].isdecimal():
            return self._model(int(parts[1]))
        if len(parts) == 3 and parts[:2] == ["model-versions", "by-hash"]:
            return self._by_hash(parts[2])
        if len(parts) == 3 and parts[:2] == ["model-versions", "mini"]:
            return self._mini(int(parts[2]))
        if len(parts) == 2 and parts[0] == "model-versions" and parts[1].isdecimal():
            version = self.versions.get(int(parts[1]))
            if version is None:
                return json_answer(404, {"error": "Model not found"})
            refused = self._api_refusal(version)
            return refused or json_answer(200, self._version_record(version))
        return json_answer(400, {"error": "Bad request"})

    def _api_refusal(self, version: CivitaiVersion) -> Answer | None:
        if version.api == "flaky":
            with self._lock:
                self._flaky += 1
                return html_answer(503, "Busy") if self._flaky < 3 else None
        return {
            "ok": None,
            "not_found": json_answer(404, {"error": "Model not found"}),
            "bad_request": json_answer(400, {"error": "Invalid"}),
            "no_file": json_answer(404, {"error": "Missing model file"}),
            "region": json_answer(451, {"code": "REGION_BLOCKED"}),
            "error": json_answer(500, {"message": "An unexpected error", "error": {}}),
            "maintenance": html_answer(503, "Maintenance"),
            "challenge": html_answer(200, "Just a moment..."),
        }[version.api]

    def _model(self, model_id: int) -> Answer:
        model = self.models.get(model_id)
        if model is None or model.gone:
            return json_answer(404, {"error": f"No model with id {model_id}"})
        versions = [each for each in self.versions.values() if each.model_id == model_id]
        versions.sort(key=lambda each: each.published_at or "", reverse=True)
        records = [self._version_record(each, with_model=False) for each in versions]
        record = {
            "id": model_id,
            "name": model.name,
            "type": model.type,
            "nsfw": False,
            **model.licence,
            "modelVersions": records,
        }
        return json_answer(200, record)

    def _by_hash(self, text: str) -> Answer:
        for version in self.versions.values():
            for file in version.files:
                if file.sha256.upper() == text.upper():
                    return json_answer(200, self._version_record(version))
        return json_answer(404, {"error": "Model not found"})

    def _mini(self, version_id: int) -> Answer:
        version = self.versions.get(version_id)
        if version is None:
            return json_answer(404, {"error": "Model not found"})
        return json_answer(
            200, {"id": version_id, "versionName": version.name, "baseModel": version.base_model}
        )

    def _version_record(
        self, version: CivitaiVersion, *, with_model: bool = True
    ) -> dict[str, Any]:
        model = self.models[version.model_id]
        base = f"https://civitai.com/api/download/models/{version.version_id}"
        record: dict[str, Any] = {
            "id": version.version_id,
            "modelId": version.model_id,
            "name": version.name,
            "nsfwLevel": 3,
            "createdAt": "2025-03-01T08:55:00.000Z",
            "updatedAt": version.published_at,
            "status": version.status,
            "publishedAt": version.published_at,
            "trainedWords": version.trained_words,
            "trainingStatus": None,
            "baseModel": version.base_model,
            "baseModelType": "Standard",
            "description": None,
            "usageControl": version.usage_control,
            "licensingFee": None,
            "paidAccess": None,
            "air": f"urn:air:sdxl:checkpoint:civitai:{version.model_id}@{version.version_id}",
            "stats": {"downloadCount": 10, "thumbsUpCount": 2},
            "files": [self._file_record(file, base) for file in version.files],
            "images": [],
            "downloadUrl": base,
            **version.extra,
        }
        if with_model:
            record["model"] = {
                "name": model.name,
                "type": model.type,
                "nsfw": False,
                "poi": False,
            }
        return record

    def _file_record(self, file: CivitaiFile, base: str) -> dict[str, Any]:
        digest = (file.says_sha256 or file.sha256).upper()
        hashes = {"AutoV1": "4748A7F6", "CRC32": "DAEE95B7", "AutoV3": "22D8CB95B807"}
        if file.publishes_hash:
            hashes |= {"AutoV2": digest[:10], "SHA256": digest}
        record: dict[str, Any] = {
            "id": file.file_id,
            "sizeKB": round(file.blob.size_bytes / 1024, 2),
            "name": file.name,
            "type": file.type,
            "pickleScanResult": file.pickle_scan,
            "pickleScanMessage": "No Pickle imports",
            "virusScanResult": file.virus_scan,
            "virusScanMessage": None,
            "scannedAt": "2025-03-02T09:10:00.000",
            "metadata": file.metadata,
            "hashes": hashes,
            "downloadUrl": f"{base}?fileId={file.file_id}",
        }
        if file.primary:
            record["primary"] = True
        return record

    # --- /api/download ---

    def _account(self, request: Request) -> str | None:
        """The token if it is a good one; a wrong one is silently anonymous."""
        return request.token if request.token in (GOOD_TOKEN, OTHER_TOKEN, WEAK_TOKEN) else None

    def _download(self, request: Request, version_text: str) -> Answer:
        if not version_text.isdecimal():
            return json_answer(400, {"error": "Bad request"})
        version = self.versions.get(int(version_text))
        if version is None:
            return json_answer(404, {"error": "File not found"})
        account = self._account(request)
        refusal = self._refusal(version, account)
        if refusal is not None:
            return refusal
        file = self._choose(request, version, account)
        if file is None:
            return json_answer(404, {"error": "File not found"})
        with self._lock:
            count = self.redirects.get(account, 0)
            if self.quota is not None and count >= self.quota:
                return _QUOTA
            self.redirects[account] = count + 1
            style = self.style(self.redirect_count - 1)
        location = self.storage.sign(f"{file.file_id}-{file.name}", style)
        return Answer(status=307, headers={"Location": location, "Cache-Control": "no-store"})

    def _refusal(self, version: CivitaiVersion, account: str | None) -> Answer | None:
        if version.download == "login" or version.needs_login:
            if account is None or (version.download == "login" and account == OTHER_TOKEN):
                return _LOGIN
            return json_answer(403, {"error": "Forbidden"}) if account == WEAK_TOKEN else None
        if version.download == "ok":
            return None
        return _REFUSALS[version.download]

    def _choose(
        self, request: Request, version: CivitaiVersion, account: str | None
    ) -> CivitaiFile | None:
        wanted = request.query.get("fileId")
        if wanted is not None:
            return next((each for each in version.files if str(each.file_id) == wanted), None)
        if request.query.keys() & {"type", "format", "size", "fp"}:
            return None
        preferred = self.preferences.get(account)
        for file in version.files:
            if file.name == preferred:
                return file
        return next((file for file in version.files if file.primary), None)


_LOGIN = json_answer(
    401,
    {
        "error": "Unauthorized",
        "message": "The creator of this asset requires you to be logged in to download it",
    },
)
_QUOTA = json_answer(
    429, {"error": "Too many downloads", "message": "You have exceeded your download limit"}
)
_REFUSALS: dict[str, Answer] = {
    "quota": _QUOTA,
    "quota_with_date": json_answer(429, {"error": "Too many"}, **{"Retry-After": "3600"}),
    "bad_request": json_answer(400, {"error": "Bad request"}),
    "not_found": json_answer(404, {"error": "File not found"}),
    "archived": json_answer(410, {"error": "Gone"}),
    "disabled": json_answer(
        401,
        {
            "error": "Unauthorized",
            "message": "The creator of this asset has disabled downloads on this file",
        },
    ),
    "early_access": json_answer(
        403,
        {
            "error": "Early Access",
            "deadline": "2027-01-31T12:00:00.000Z",
            "message": "This asset is in Early Access",
        },
    ),
    "grant": json_answer(403, {"error": "Forbidden"}),
    "region": json_answer(451, {"code": "REGION_BLOCKED"}),
    "maintenance": html_answer(503, "Maintenance"),
    "challenge": html_answer(403, "Just a moment..."),
    "error": json_answer(500, {"message": "An unexpected error", "error": {}}),
    "login_page": Answer(status=307, headers={"Location": "/login?returnUrl=%2F"}),
    "strange_host": Answer(status=307, headers={"Location": "https://evil.example/x.safetensors"}),
}
