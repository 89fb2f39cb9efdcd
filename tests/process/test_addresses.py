"""HOST:PORT, as every command line has it."""

from __future__ import annotations

import pytest
import typer

from modelfleet_process.addresses import (
    checked_address,
    checked_if_given,
    dialled_here,
    join_address,
    split_address,
)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("[::1]:0", "::1", 0),
        ("host:65535", "host", 65535),
        ("modelfleet-operator.ns.svc:9090", "modelfleet-operator.ns.svc", 9090),
    ],
)
def test_an_address_is_a_host_and_a_port_and_back(address: str, host: str, port: int):
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address
    assert checked_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        *("80", ":80", "host", "host:", "host:http", "host:65536", "host:-1", "host:٣"),
        *("fd00::7:9090", "::1", "[::1]", "[::1:80", "::1]:80", "[]:80"),
        *("http://host:80", "user@host:80"),
    ],
)
def test_what_is_none_is_said(address: str):
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        split_address(address)
    with pytest.raises(typer.BadParameter, match="expected HOST:PORT"):
        checked_address(address)


def test_an_option_may_be_empty_and_is_then_no_address():
    assert checked_if_given("") == ""
    assert checked_if_given("host:1") == "host:1"
    for check in (checked_if_given, checked_address, split_address):
        with pytest.raises((ValueError, typer.BadParameter), match="expected HOST:PORT"):
            check("host" if check is checked_if_given else "")


@pytest.mark.parametrize(
    ("listens", "dialled"),
    [
        ("0.0.0.0:1", "127.0.0.1:1"),
        ("[::]:1", "127.0.0.1:1"),
        ("[::1]:1", "[::1]:1"),
        ("192.0.2.1:1", "192.0.2.1:1"),
    ],
)
def test_this_machine_does_not_dial_all_interfaces(listens: str, dialled: str):
    assert dialled_here(listens) == dialled
