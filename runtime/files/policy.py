"""Which hosts may be asked, and at which addresses they may live.

A name is resolved once and the socket is connected to exactly the address that was judged, so a name
that changes its address between check and use (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from runtime.files.errors import WeightsError

_LOOPBACK_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
_ALSO_PRIVATE = [
    ipaddress.ip_network(each)
    for each in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20")
]
"""What some or all versions of `ipaddress` call global; a cloud has its metadata service at 192.0.0.192."""


@dataclass(frozen=True, kw_only=True)
class HostPolicy:
    """What a download may connect to. The default suits an address that a stranger gave."""

    hosts: tuple[str, ...] | None = None
    """Names, and suffixes that begin with a dot (`.hf.co`); None allows every name."""
    loopback: bool = False
    """Allow this machine itself, on any port and over plain http (tests, mirrors on loopback)."""
    private_hosts: tuple[str, ...] = ()
    """Names that may live at private addresses: those that the manifest's author wrote himself."""

    def check_url(self, url: str) -> SplitResult:
        """The parts of an address that may be asked.

        Raises:
            WeightsError: kind `host`: not https, a user or password in it, or a host that is not allowed.
        """
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").lower()
            _ = parts.port
        except ValueError:
            raise WeightsError("host", "not a valid address") from None
        shown = show_url(url)
        if parts.scheme not in ("http", "https") or not host:
            raise WeightsError("host", "only https:// addresses are fetched", where=shown)
        if parts.username is not None or parts.password is not None:
            raise WeightsError("host", "an address with a user or password in it", where=shown)
        if is_loopback_host(host):
            if self.loopback:
                return parts
            raise WeightsError("host", "this machine's own address is not allowed", where=shown)
        if parts.scheme != "https":
            raise WeightsError("host", "plain http is not safe for weights", where=shown)
        if not self.allows_host(host):
            raise WeightsError(
                "unlisted", f"{host} is not a host that files may come from", where=shown
            )
        address = _parse_address(host)
        if address is not None:
            self.check_address(host, address)
        return parts

    def allows_host(self, host: str) -> bool:
        """Whether the name is on the list, if there is one."""
        if self.hosts is None:
            return True
        return any(
            host.endswith(each) if each.startswith(".") else host == each for each in self.hosts
        )

    def check_address(
        self, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> None:
        """Raises WeightsError (kind `host`) for an address that `host` may not live at."""
        plain = _unwrap(address)
        if plain.is_loopback:
            allowed = self.loopback or host in self.private_hosts
        elif is_public(plain):
            allowed = True
        else:
            allowed = host in self.private_hosts and not _is_never_allowed(plain)
        if not allowed:
            raise WeightsError("host", f"{host} is at {address}, which is not a public address")

    def resolve(self, host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
        """`(family, (address, port))` of every address of `host`, all of them judged.

        Raises:
            WeightsError: kind `host`: one of them is not allowed.
            OSError: the name is not known.
        """
        found: list[tuple[int, tuple[str, int]]] = []
        for family, _, _, _, at in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            text = str(at[0])
            self.check_address(host.lower(), ipaddress.ip_address(text.split("%", 1)[0]))
            if (family, (text, port)) not in found:
                found.append((family, (text, port)))
        return found


def is_loopback_host(host: str) -> bool:
    """Whether the text of a URL's host means this machine, without resolving it."""
    if host.lower().rstrip(".") in _LOOPBACK_NAMES:
        return True
    address = _parse_address(host)
    return address is not None and _unwrap(address).is_loopback


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether the whole internet reaches the same machine at this address."""
    plain = _unwrap(address)
    return (
        plain.is_global
        and not plain.is_multicast
        and not plain.is_reserved
        and not any(plain in network for network in _ALSO_PRIVATE)
    )


def show_url(url: str) -> str:
    """An address that is fit to be printed: without query, fragment, user and password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(not a valid address)"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _is_never_allowed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    # Link-local holds the clouds' metadata services, which hand out credentials.
    return address.is_link_local or address.is_multicast or address.is_unspecified


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host's text is; also in the odd forms that inet_aton takes (`0x7f.1`, `2130706433`)."""
    try:
        return ipaddress.ip_address(host.strip("[]").split("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError, ValueError):
        return None


def _unwrap(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address in an IPv6 one that only carries it (mapped, 6to4, NAT64)."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
