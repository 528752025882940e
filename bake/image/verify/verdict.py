"""What a verification says: checks, each with a severity, a message and a remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    severity: Severity
    message: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All checks of one image."""

    image: str
    digest: str
    checks: tuple[Check, ...]
    read_bytes: int = 0
    """How much of the image was read and hashed."""

    @property
    def is_good(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return all(check.severity != "error" for check in self.checks)

    def with_check(self, check: Check) -> Verdict:
        """The verdict with one more check."""
        return replace(self, checks=(*self.checks, check))

    def as_json(self) -> dict[str, Any]:
        """For `--json` and reports."""
        return {
            "image": self.image,
            "digest": self.digest,
            "verdict": "good" if self.is_good else "bad",
            "read_bytes": self.read_bytes,
            "checks": [asdict(check) for check in self.checks],
        }


def make_check(
    name: str, is_good: bool, message: str, remedy: str, *, otherwise: Severity = "error"
) -> Check:
    """A check that is fine, or has a remedy."""
    return Check(
        name=name,
        severity="ok" if is_good else otherwise,
        message=message,
        remedy="" if is_good else remedy,
    )
