"""Addresses and sockets, for whoever listens or waits for another machine."""

import contextlib
import ipaddress
import socket

KEEPALIVE_SECONDS = 5
KEEPALIVE_PROBES = 3


def listening_host(host: str) -> tuple[socket.AddressFamily, str]:
    """Where to listen so that `host`, a name or address of this machine, leads there: the loopback address itself, and
    for all else every address, because a name may not be known yet and an address may be translated."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return (socket.AF_INET6, "::") if _has_ipv6_only() else (socket.AF_INET, "0.0.0.0")
    if address.version == 6:
        return socket.AF_INET6, str(address) if address.is_loopback else "::"
    return socket.AF_INET, str(address) if address.is_loopback else "0.0.0.0"


def _has_ipv6_only() -> bool:
    """Whether this machine can send to IPv6's addresses alone. Nothing is sent to find out."""
    return not _has_route(socket.AF_INET, "192.0.2.1") and _has_route(socket.AF_INET6, "2001:db8::1")


def _has_route(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
    except OSError:
        return False
    return True


def free_ports(host: str, count: int) -> list[int]:
    """Different ports that are free where `host` leads."""
    family, host = listening_host(host)
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket(family)) for _ in range(count)]
        for probe in probes:
            probe.bind((host, 0))
        return [probe.getsockname()[1] for probe in probes]


def keep_alive(end: socket.socket) -> None:
    """Have the kernel notice within 20 seconds that the machine at the other end is gone without a word."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * KEEPALIVE_SECONDS * (1 + KEEPALIVE_PROBES))
