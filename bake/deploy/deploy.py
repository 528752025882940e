"""The recipes of `bake deploy`, `bake deploy --rollback` and `bake undeploy`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bake.console import Console
from bake.deploy.client import Endpoint, RunpodClient
from bake.deploy.desired import (
    Change,
    Desired,
    Marker,
    create_body,
    find_changes,
    flat_fields,
    marked_workers,
    update_body,
)
from bake.errors import ManifestError

_SHOWN_CHARS = 100


@dataclass(frozen=True, kw_only=True)
class Undertaking:
    """What shall be done to an endpoint: an answer is asked before it is."""

    desired: Desired
    endpoint: Endpoint | None
    """None where it is to be made."""
    changes: Sequence[Change]
    previous_image: str = ""

    @property
    def by_hand(self) -> list[Change]:
        """What would overwrite somebody's edit."""
        return [each for each in self.changes if each.is_by_hand]


def find_endpoint(client: RunpodClient, name: str) -> Endpoint | None:
    """The endpoint of that name; the console puts ` -fb` behind names of endpoints with FlashBoot.

    Raises:
        ManifestError: there are several.
    """
    names = {name, f"{name} -fb"}
    found = [each for each in client.endpoints() if each.name in names]
    if len(found) > 1:
        raise ManifestError(
            f"{len(found)} endpoints are called {name!r}: {', '.join(each.id for each in found)}",
            where="deploy.name",
            hint="rename or remove all but one in RunPod's console",
        )
    return found[0] if found else None


def need_endpoint(client: RunpodClient, name: str) -> Endpoint:
    """As `find_endpoint`.

    Raises:
        ManifestError: there is none.
    """
    found = find_endpoint(client, name)
    if found is None:
        raise ManifestError(f"there is no endpoint {name!r}", hint="bake deploy MANIFEST makes it")
    return found


def registry_id(client: RunpodClient, name: str | None) -> str | None:
    """RunPod's id of a registry credential that is given by name or id.

    Raises:
        ManifestError: the account has none of that name.
    """
    if name is None:
        return None
    known = client.registries()
    if name in known.values():
        return name
    if name not in known:
        raise ManifestError(
            f"the account has no registry credential {name!r}",
            where="deploy.registry",
            hint=f"it has {', '.join(sorted(known)) or 'none'}; add one under Settings in RunPod's console",
        )
    return known[name]


def plan_deploy(client: RunpodClient, desired: Desired) -> Undertaking:
    """What `bake deploy` would do.

    Raises:
        ManifestError: the endpoint of that name is of the other type, which cannot be changed.
    """
    endpoint = find_endpoint(client, desired.name)
    if endpoint is None:
        return Undertaking(desired=desired, endpoint=None, changes=())
    if endpoint.type != desired.type:
        raise ManifestError(
            f"the endpoint {endpoint.id} is of type {endpoint.type}, which RunPod cannot change",
            where="deploy.type",
            hint="give another deploy.name, or remove it: bake undeploy MANIFEST --remove",
        )
    changes = find_changes(endpoint, desired)
    marker, image = Marker.read(endpoint), str(endpoint.fields.get("image") or "")
    is_new_image = any(each.field == "image" for each in changes)
    previous = image if is_new_image else (marker.previous_image if marker else "")
    return Undertaking(desired=desired, endpoint=endpoint, changes=changes, previous_image=previous)


def plan_rollback(client: RunpodClient, name: str) -> Undertaking:
    """Back to the image before; all else stays as it is.

    Raises:
        ManifestError: there is none before.
    """
    endpoint = need_endpoint(client, name)
    image = str(endpoint.fields.get("image") or "")
    marker = Marker.read(endpoint)
    earlier = [marker.previous_image] if marker and marker.previous_image else []
    target = next(
        (each for each in [*earlier, *client.earlier_images(endpoint.id)] if each != image), ""
    )
    if not target:
        raise ManifestError(
            f"no earlier image of {endpoint.id} is known",
            hint="bake deploy MANIFEST --image REPOSITORY@sha256:… takes any",
        )
    fields = {
        **{
            key: flat_fields(endpoint)[key]
            for key in (marker.hashes if marker else ())
            if key in flat_fields(endpoint)
        },
        "image": target,
    }
    desired = Desired(name=endpoint.name, type=endpoint.type, fields=fields)
    change = Change(field="image", old=image, new=target, is_by_hand=False)
    return Undertaking(desired=desired, endpoint=endpoint, changes=[change], previous_image=image)


def carry_out(client: RunpodClient, what: Undertaking, *, console: Console) -> Endpoint:
    """Makes or changes the endpoint; says where RunPod kept something else than it was told.

    Raises:
        PushError: RunPod refuses.
    """
    if what.endpoint is None:
        return client.create_endpoint(create_body(what.desired))
    if not what.changes:
        return what.endpoint
    body = update_body(
        what.endpoint, list(what.changes), what.desired.fields, previous=what.previous_image
    )
    updated = client.update_endpoint(what.endpoint.id, body)
    for change in find_changes(updated, what.desired):
        console.warn(f"RunPod keeps {_line(change, sign='=')}")
    return updated


def scale_to_zero(client: RunpodClient, endpoint: Endpoint) -> Endpoint:
    """No worker runs any more; the endpoint, its address and its queue stay."""
    return client.update_endpoint(endpoint.id, marked_workers(endpoint, {"min": 0, "max": 0}))


def describe(what: Undertaking) -> list[str]:
    """The difference, for people."""
    desired = what.desired
    if what.endpoint is None:
        fields = [
            Change(field=key, old=None, new=value, is_by_hand=False)
            for key, value in sorted(desired.fields.items())
        ]
        return [
            f"new endpoint {desired.name} ({desired.type})",
            *(f"  {_line(each, sign='+')}" for each in fields),
        ]
    if not what.changes:
        return [f"endpoint {what.endpoint.id} ({what.endpoint.name}) is as the manifest says"]
    lines = [f"endpoint {what.endpoint.id} ({what.endpoint.name}):"]
    for each in what.changes:
        lines.append(
            f"  {_line(each, sign='~')}" + ("   ← edited by hand" if each.is_by_hand else "")
        )
    return lines


def may_proceed(
    what: Undertaking, *, yes: bool, overwrite: bool, is_terminal: bool, ask: Callable[[str], bool]
) -> bool:
    """Whether to carry it out; asks where there is a terminal.

    Raises:
        ManifestError: nobody can be asked, or edits by hand would be overwritten unasked.
    """
    if what.by_hand and not overwrite and (yes or not is_terminal):
        names = ", ".join(each.field for each in what.by_hand)
        raise ManifestError(
            f"somebody edited {names} by hand since bake set it, or bake never set it",
            where=what.endpoint.id if what.endpoint else None,
            hint="put it into the manifest's section deploy, or overwrite it: --overwrite",
        )
    if yes:
        return True
    if not is_terminal:
        raise ManifestError(
            "there is no terminal to ask on", hint="look at --dry-run, then add --yes"
        )
    hand = " and overwrite what was edited by hand" if what.by_hand else ""
    return ask(f"{'Make it' if what.endpoint is None else 'Change it'}{hand}?")


def change_event(change: Change) -> Mapping[str, Any]:
    """For `--json`."""
    return {
        "field": change.field,
        "old": _shown(change.field, change.old),
        "new": _shown(change.field, change.new),
        "by_hand": change.is_by_hand,
    }


def _line(change: Change, *, sign: str) -> str:
    new = _shown(change.field, change.new)
    if sign == "+":
        return f"+ {change.field}: {new}"
    return f"{sign} {change.field}: {_shown(change.field, change.old)} → {new}"


def _shown(field: str, value: Any) -> str:
    """A value for people. A variable that is not the worker's own may hold a secret that somebody typed in."""
    if value is None or value == "":
        return "nothing"
    text = str(value)
    is_ours = field.startswith("env.BAKERY_") or text.startswith("{{ RUNPOD_SECRET_")
    if field.startswith("env.") and not is_ours:
        return f"({len(text)} characters)"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return text if len(text) <= _SHOWN_CHARS * 2 else f"{text[:_SHOWN_CHARS]}…"
