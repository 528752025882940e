"""Signing what lies in a registry, and finding out who has: statements on an image, attached to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bake.console import Console
from bake.image.final.inspect import inspect_image
from bake.image.oci.reference import Reference
from bake.image.registry.client import RegistryClient
from bake.image.registry.referrers import attach, attached
from bake.image.sign.bundle import (
    BUNDLE,
    PROVENANCE,
    SBOM,
    SIGNATURE,
    Statement,
    Unreadable,
    parse_bundle,
)
from bake.image.sign.signer import Signer, Trust, Untrusted, Who
from bake.image.source import read_from_registry


@dataclass(frozen=True, kw_only=True)
class Signed:
    """One bundle that is attached to an image, and what came of checking it."""

    kind: str
    """`signature`, `provenance`, `bill of materials`, or a predicate's type; empty where it cannot be read."""
    who: Who | None
    problem: str = ""
    """Why it is not believed."""

    @property
    def is_signature(self) -> bool:
        """Of the image itself, and believed. An attestation alone is none, whoever made it."""
        return self.kind == "signature" and self.who is not None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        who = self.who or Who(identity="")
        return {
            "kind": self.kind,
            "identity": who.identity,
            "issuer": who.issuer,
            "problem": self.problem,
        }


def statements_of(client: RegistryClient, reference: Reference) -> list[Statement]:
    """What is signed of an image: that it is ours, and its documents, if it has them.

    Raises:
        PushError: the registry does not give it.
        BuildError: it is no image for linux/amd64.
    """
    said = inspect_image(read_from_registry(client, reference), name=str(reference))
    predicates: dict[str, Any] = {
        SIGNATURE: {},
        PROVENANCE: (said.provenance or {}).get("predicate"),
        SBOM: said.sbom,
    }
    return [
        Statement(
            name=f"{reference.host}/{reference.repository}",
            predicate_type=kind,
            digests=(reference.digest,),
            predicate=predicate,
        )
        for kind, predicate in predicates.items()
        if isinstance(predicate, Mapping)
    ]


def sign_image(
    client: RegistryClient, reference: Reference, *, signer: Signer, console: Console
) -> list[Statement]:
    """Signs an image and its documents, and attaches what was signed.

    All are signed before the first is attached, and the image's own signature comes last: where it is, all is.

    Args:
        client: The registry's.
        reference: The image, by digest.
        signer: Signs.
        console: Is told of each.

    Raises:
        PushError: the registry refuses.
        BakeError: the signer does not sign.
    """
    statements = statements_of(client, reference)
    bundles = [(each, signer.sign(each.to_json())) for each in statements]
    for statement, bundle in reversed(bundles):
        annotations = {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": statement.predicate_type,
        }
        digest = attach(client, reference, bundle, media_type=BUNDLE, annotations=annotations)
        console.event("signed", reference=str(reference), kind=statement.kind, artifact=digest)
    return statements


def find_signatures(client: RegistryClient, reference: Reference, *, trust: Trust) -> list[Signed]:
    """Every bundle that is attached to an image, checked.

    Args:
        client: The registry's.
        reference: The image, by digest.
        trust: Whom to believe.

    Raises:
        PushError: the registry does not give them.
    """
    return [_check(text, reference, trust) for text in attached(client, reference, BUNDLE)]


def _check(text: bytes, reference: Reference, trust: Trust) -> Signed:
    try:
        bundle = parse_bundle(text)
    except Unreadable as error:
        return Signed(kind="", who=None, problem=str(error))
    kind = bundle.statement.kind
    try:
        who = trust.check(bundle)
    except Untrusted as error:
        return Signed(kind=kind, who=None, problem=str(error))
    if reference.digest not in bundle.statement.digests:
        return Signed(kind=kind, who=None, problem=f"it is about another image, and signed by {who}")  # fmt: skip
    return Signed(kind=kind, who=who)


def describe(found: Sequence[Signed]) -> list[str]:
    """A line for each."""
    lines = []
    for each in found:
        kind = each.kind or "something"
        lines.append(f"{kind} by {each.who}" if each.who else f"{kind} is not believed: {each.problem}")  # fmt: skip
    return lines
