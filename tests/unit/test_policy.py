"""Which addresses may be asked: https, allowed names, public addresses, and no rebinding."""

import socket
from typing import Any

import pytest

from runtime.files.errors import WeightsError
from runtime.files.http import Client, Credentials, check_redirect
from runtime.files.policy import HostPolicy, is_loopback_host, show_url


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "ftp://example.com/x",
        "file:///etc/passwd",
        "https://",
        "https://user:s3cret@example.com/",
        "https://localhost/x",
        "http://127.0.0.1/x",
        "https://127.1/x",
        "https://2130706433/x",
        "https://0x7f.0.0.1/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://[64:ff9b::a00:1]/x",
        "https://[2002:a00:1::]/x",
        "https://10.0.0.1/x",
        "https://172.16.0.1/x",
        "https://192.168.1.1/x",
        "https://169.254.169.254/latest",
        "https://100.64.0.1/x",
        "https://192.0.0.192/x",
        "https://[fec0::1]/x",
        "https://[3fff::1]/x",
        "https://0.0.0.0/x",
        "https://224.0.0.1/x",
        "https://[fe80::1]/x",
        "https://[fc00::1]/x",
        "https://exa[mple/",
        "https://example.com:99999/",
    ],
)
def test_addresses_that_are_never_asked(url: str) -> None:
    with pytest.raises(WeightsError) as raised:
        HostPolicy().check_url(url)
    assert raised.value.kind == "host"
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://example.com/x?token=s", "https://1.1.1.1/x"])
def test_public_addresses_are_asked(url: str) -> None:
    """A list of hosts, where there is one, is what refuses them."""
    HostPolicy().check_url(url)
    with pytest.raises(WeightsError, match="is not a host that files may come from"):
        HostPolicy(hosts=("other.example",)).check_url(url)


def test_names_and_suffixes() -> None:
    policy = HostPolicy(hosts=("hf.co", ".hf.co"))
    for good in ("https://hf.co/", "https://cdn.hf.co/", "https://CDN.HF.CO/"):
        policy.check_url(good)
    for bad in ("https://evilhf.co/", "https://hf.co.evil.example/", "https://a.example/"):
        with pytest.raises(WeightsError, match="is not a host that files may come from"):
            policy.check_url(bad)


def test_loopback_is_for_tests_and_mirrors_only() -> None:
    policy = HostPolicy(hosts=("a.example",), loopback=True)
    policy.check_url("http://127.0.0.1:5000/x")
    policy.check_url("http://localhost:5000/x")
    with pytest.raises(WeightsError):
        policy.check_url("http://a.example/x")


@pytest.mark.parametrize(
    ("address", "private_hosts", "good"),
    [
        ("93.184.216.34", (), True),
        ("10.1.2.3", (), False),
        ("10.1.2.3", ("a.example",), True),
        ("169.254.169.254", ("a.example",), False),
        ("127.0.0.1", (), False),
        ("::1", (), False),
    ],
)
def test_what_a_name_resolves_to(
    monkeypatch: pytest.MonkeyPatch, address: str, private_hosts: tuple[str, ...], good: bool
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(address))
    policy = HostPolicy(private_hosts=private_hosts)
    if good:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        assert policy.resolve("a.example", 443) == [(family, (address, 443))]
        return
    with pytest.raises(WeightsError, match=r"a.example is at .*, which is not a public address"):
        policy.resolve("a.example", 443)


def resolver(*addresses: str) -> Any:
    def resolve(host: str, port: int, **_: object) -> list[Any]:
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port),
            )
            for address in addresses
        ]

    return resolve


def test_one_bad_address_among_good_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver("93.184.216.34", "10.0.0.1"))
    with pytest.raises(WeightsError):
        HostPolicy().resolve("a.example", 443)


def test_a_name_that_changes_its_address_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connected: list[object] = []

    def resolve(host: str, port: int, **kind: object) -> list[Any]:
        return list(resolver(*answers.pop(0))(host, port))

    def connect(self: socket.socket, address: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket.socket, "connect", connect)
    client = Client(HostPolicy())
    with pytest.raises(OSError, match="cannot be reached"):
        client.request("https://a.example/x")
    with pytest.raises(WeightsError, match="not a public address"):
        client.request("https://a.example/x")
    assert connected == [("93.184.216.34", 443)]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/login?returnUrl=x", "login"),
        ("https://a.example/signin", "login"),
        ("https://b.example/x", "unlisted"),
        ("http://a.example/x", "host"),
        ("//10.0.0.1/x", "host"),
    ],
)
def test_redirects_are_judged(target: str, kind: str) -> None:
    policy = HostPolicy(hosts=("a.example", "10.0.0.1"))
    with pytest.raises(WeightsError) as raised:
        check_redirect("https://a.example/y", target, policy, login_hint="log in")
    assert raised.value.kind == kind


def test_a_relative_redirect_is_followed() -> None:
    policy = HostPolicy(hosts=("a.example",))
    found = check_redirect("https://a.example/y", "/z?s=1", policy, login_hint="")
    assert found == "https://a.example/z?s=1"


def test_credentials_fit_one_origin_and_are_never_shown() -> None:
    credentials = Credentials(origin="https://a.example", value="Bearer secret")
    assert credentials.fits("https://A.example:443/x")
    for other in (
        "https://a.example:444/",
        "http://a.example/",
        "https://b.a.example/",
        "https://a.example.evil/",
    ):
        assert not credentials.fits(other)
    assert "secret" not in repr(credentials)
    client = Client(HostPolicy(), credentials=credentials)
    with pytest.raises(ValueError, match="credentials are given to the client"):
        client.request("https://b.example/", headers={"authorization": "Bearer secret"})


def test_addresses_are_shown_without_secrets() -> None:
    assert show_url("https://u:p@a.example:1/x?token=s#f") == "https://a.example:1/x"
    assert show_url("https://[::1]:1/x?a") == "https://[::1]:1/x"
    assert show_url("https://[x") == "(not a valid address)"
    assert is_loopback_host("LOCALHOST.")
    assert not is_loopback_host("localhost.example")
