"""CivitAI: a version's record names the files and their digests; its API redirects to the storage.

A bare download address serves what the token owner's account prefers, so a file is always chosen from
the record and asked for by its id.
"""

from __future__ import annotations

import requests

from bake.errors import SourceError
from bake.lock import Licence, Pin
from bake.weights.context import Context, Found, Newer
from bake.weights.sites.answers import get_json
from bake.weights.sites.civitai_errors import GET_TOKEN, TokenState, explain_api, explain_download
from bake.weights.sites.civitai_records import (
    File,
    Version,
    choose_file,
    parse_licence,
    parse_version,
)
from bake.weights.sources import Source
from bake.weights.transfer.locations import recall
from bake.weights.transfer.remote import Remote
from runtime.files.addresses import CIVITAI, civitai_file
from runtime.files.errors import WeightsError
from runtime.files.http import Client

CONNECTIONS = 2
"""No cap is published; two is polite and hides one connection's pauses."""


def find_civitai(context: Context, source: Source) -> Found:
    """What a version's record says of the file that is meant."""
    with _client(context) as client:
        version = _get_version(context, client, source.version_id or 0)
        where = f"civitai:{version.version_id}"
        _check_version(context, version, source, where=where)
        file = choose_file(version, source, where=where)
        if source.wanted and not file.fits(source.wanted):
            asked = ", ".join(f"{name}={value}" for name, value in source.wanted)
            context.console.warn(f"{where}: no file is known to be {asked}; taken is {file.name}")
        _check_scans(context, file, where=where)
        licence = _get_licence(context, client, version)
    return Found(
        file_name=file.name,
        url=civitai_file(CIVITAI.url, version.version_id, None),
        sha256=file.sha256,
        about_bytes=file.about_bytes,
        title=version.title or None,
        model_id=version.model_id,
        version_id=version.version_id,
        file_id=file.file_id,
        base_model=version.base_model,
        published_at=version.published_at,
        trigger_words=version.trigger_words,
        licence=licence,
        role=version.role_of(file),
        families=version.families,
    )


def open_civitai(context: Context, _source: Source, target: Found | Pin) -> Remote:
    """The file by its id, wherever CivitAI keeps it."""
    base = context.settings.civitai_url
    # A record may lack the file's id.
    url = civitai_file(base, target.version_id or 0, target.file_id)
    client = _client(context)

    def explain(response: requests.Response, at: str) -> Exception:
        return explain_download(response, at, token_state=lambda: _token_state(context, client))

    return Remote(client, url, explain=explain, location=recall(client, url))


def published_sha256(context: Context, _source: Source, pin: Pin) -> str | None:
    """The digest that the record gives today for the pinned file."""
    with _client(context) as client:
        version = _get_version(context, client, pin.version_id or 0)
    return next((file.sha256 for file in version.files if file.file_id == pin.file_id), None)


def newer_civitai(context: Context, _source: Source, pin: Pin) -> list[Newer]:
    """Versions of the same model that were published later, the newest first."""
    if pin.model_id is None:
        raise SourceError(
            "the lock does not know the pin's model", where=pin.key, hint="bake lock MANIFEST"
        )
    with _client(context) as client:
        url = f"{context.settings.civitai_url}/api/v1/models/{pin.model_id}"
        model = get_json(client, url, explain=explain_api, backoff_s=context.settings.backoff_s)
    entries = model.get("modelVersions")
    versions = [
        parse_version(each, where=f"model {pin.model_id}")
        for each in (entries if isinstance(entries, list) else [])
        if isinstance(each, dict)
    ]
    own = next((each for each in versions if each.version_id == pin.version_id), None)
    since = pin.published_at or (own.published_at if own else None)
    # An archived version has no files, and its empty list is left out of a record that has others.
    lists_files = any(version.files for version in versions)
    later = [
        version
        for version in versions
        if version.version_id != pin.version_id
        and version.status == "Published"
        and (version.files or not lists_files)
        and _is_later(version, pin, since)
    ]
    return [
        Newer(
            source=f"civitai:{version.version_id}",
            title=version.name,
            published_at=version.published_at,
            base_model=version.base_model,
        )
        for version in sorted(
            later, key=lambda each: (each.published_at or "", each.version_id), reverse=True
        )
    ]


def _is_later(version: Version, pin: Pin, since: str | None) -> bool:
    """By the dates; where one is missing, by the numbers, which grow."""
    if since and version.published_at:
        return version.published_at > since
    return version.version_id > (pin.version_id or 0)


def _get_version(context: Context, client: Client, version_id: int) -> Version:
    url = f"{context.settings.civitai_url}/api/v1/model-versions/{version_id}"
    data = get_json(client, url, explain=explain_api, backoff_s=context.settings.backoff_s)
    return parse_version(data, where=f"civitai:{version_id}")


def _get_licence(context: Context, client: Client, version: Version) -> Licence:
    """Licence fields are only in the model's record, which may be gone, or broken for days, while its version is there.

    Seen in github.com/civitai/civitai/issues/1763 and 3202; no licence known is said again at each push.
    """
    if version.model_id is None:
        return Licence()
    url = f"{context.settings.civitai_url}/api/v1/models/{version.model_id}"
    try:
        model = get_json(client, url, explain=explain_api, backoff_s=context.settings.backoff_s)
    except WeightsError as error:
        if error.kind not in ("missing", "server", "page", "http", "login"):
            raise
        why = "its model's page is gone" if error.kind == "missing" else error.what
        context.console.warn(f"civitai:{version.version_id}: {why}, no licence known")
        return Licence()
    return parse_licence(model)


def _check_version(context: Context, version: Version, source: Source, *, where: str) -> None:
    if source.model_id is not None and version.model_id not in (None, source.model_id):
        raise SourceError(
            f"version {version.version_id} belongs to model {version.model_id}, "
            f"the source says {source.model_id}",
            where=where,
            hint="copy the address from the model's page again",
        )
    if version.usage_control.lower() != "download":
        raise SourceError(
            "the creator allows this version to be used on CivitAI only, not to be downloaded",
            where=where,
        )
    if version.early_access:
        context.console.warn(f"{where}: in early or paid access; a download may be refused")
    if version.status != "Published":
        context.console.warn(f"{where}: its status is {version.status}, not Published")


def _check_scans(context: Context, file: File, *, where: str) -> None:
    for name, result in zip(("pickle", "virus"), file.scans, strict=True):
        if result == "Danger":
            raise SourceError(f"CivitAI's {name} scan of {file.name} found danger", where=where)
        if result in ("Pending", "Error"):
            context.console.warn(f"{where}: CivitAI's {name} scan of {file.name}: {result.lower()}")


def _token_state(context: Context, client: Client) -> TokenState:
    if not context.settings.civitai_token:
        return "none"
    url = f"{context.settings.civitai_url}/api/v1/me"
    try:
        get_json(client, url, explain=_explain_me, backoff_s=context.settings.backoff_s)
    except WeightsError as error:
        return "invalid" if error.kind == "unauthorized" else "unknown"
    return "valid"


def _explain_me(response: requests.Response, url: str) -> Exception:
    if response.status_code == 401:
        return WeightsError("unauthorized", "the token is not accepted")
    return explain_api(response, url)


def _client(context: Context) -> Client:
    return context.site_client(
        context.settings.civitai_url,
        public=CIVITAI.url,
        storage_hosts=CIVITAI.storage,
        token=context.settings.civitai_token,
        login_hint=GET_TOKEN,
    )
