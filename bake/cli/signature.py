"""`bake verify --signature`: who signed an image, and whether it is who should have."""

from __future__ import annotations

from pathlib import Path

import click

from bake.console import Console
from bake.errors import ManifestError, VerifyError
from bake.image.oci.reference import Reference
from bake.image.registry.client import RegistryClient
from bake.image.sign.image import Signed, describe, find_signatures
from bake.image.sign.signer import Trust, Who

GITHUB = "https://token.actions.githubusercontent.com"


def check_signature(
    reference: Reference,
    *,
    identity: str | None,
    issuer: str | None,
    key: Path | None,
    trust_config: Path | None,
    console: Console,
) -> None:
    """Prints everything that is attached to an image, and ends well if one signature is the expected one.

    Raises:
        ManifestError: the options do not fit together.
        VerifyError: nobody signed it, or none who should have, or nobody said who that is.
        PushError: the registry does not say.
    """
    trust = _trust(identity, issuer, key, trust_config)
    with RegistryClient(reference.host) as client:
        digest = client.get_manifest(reference)[1]
        found = find_signatures(client, reference.at(digest), trust=trust)
    where = str(reference.at(digest))
    for each in found:
        console.event("signature", image=where, **each.as_json())
    if not console.as_json:
        click.echo("\n".join([*describe(found), where]))
    _judge(found, trust, where)


def _judge(found: list[Signed], trust: Trust, where: str) -> None:
    signers = [each.who for each in found if each.is_signature]
    if not found:
        raise VerifyError("nobody has signed it", where=where, hint=f"bake sign {where}")
    if not signers:
        reasons = sorted({each.problem for each in found if each.kind == "signature"})
        what = "; ".join(reasons) or "there are attestations, and none of them is a signature of the image"  # fmt: skip
        raise VerifyError(f"no signature is believed: {what}", where=where)
    if not trust.is_expected:
        who = signers[0]
        raise VerifyError(
            "it is signed, and nobody said by whom it should be",
            where=where,
            hint=f"if that is right: bake verify --signature {where} --identity {who.identity} --issuer {who.issuer}"
            if who
            else None,
        )


def _trust(
    identity: str | None, issuer: str | None, key: Path | None, trust_config: Path | None
) -> Trust:
    if key and (identity or issuer or trust_config):
        raise ManifestError("a key has no issuer: give --key, or --identity and --issuer")
    if key:
        from bake.image.sign.keys import read_trusted_key  # noqa: PLC0415  # the extra `sign`

        return read_trusted_key(key)
    if bool(identity) != bool(issuer):
        missing = "--issuer" if identity else "--identity"
        hint = f"for GitHub Actions: --issuer {GITHUB}" if identity else None
        raise ManifestError(f"{missing} is missing: anybody can be called anything by some issuer", hint=hint)  # fmt: skip
    from bake.image.sign.keyless import open_trust  # noqa: PLC0415

    expected = Who(identity=identity, issuer=issuer) if identity and issuer else None
    return open_trust(expected, trust_config)
