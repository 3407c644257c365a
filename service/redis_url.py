"""Where Redis is: one server, the master that Sentinels name, or a cluster.

    redis://[user:password@]host:6379/0
    redis+sentinel://[user:password@]host:26379,host2:26379/name-of-the-master[/0]
    redis+cluster://[user:password@]host:6379,host2:6379
    unix:///path/of.sock

`rediss` in the place of `redis` is TLS. Options follow a question mark, such as ssl_ca_certs=/path.pem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.connection import parse_url

_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})
_OPTIONS = frozenset({"client_name", "db", "password", "protocol", "username"})
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_PORTS = {"sentinel": 26379, "cluster": 6379}

Kind = Literal["single", "sentinel", "cluster"]


@dataclass(frozen=True)
class RedisAddress:
    """`nodes`: (host, port) of Sentinels or of nodes of the cluster. `master`: its name at the Sentinels. `options`:
    keyword arguments of a connection. `sentinel_options`: those of one to a Sentinel.
    """

    kind: Kind
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    master: str
    options: dict[str, Any]
    sentinel_options: dict[str, Any]


def parse_redis_url(url: str) -> RedisAddress:
    """ValueError that says what is wrong, and shows no password."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    base, _, mode = parts.scheme.partition("+")
    kind: Kind = "sentinel" if mode == "sentinel" else "cluster" if mode == "cluster" else "single"
    tls = base == "rediss"
    _check_options(parts.query, tls=tls, kind=kind)
    credentials, at, places = parts.netloc.rpartition("@")
    nodes = tuple(_node(place, _PORTS[kind]) for place in places.split(",")) if kind != "single" else ()
    master, path = "", parts.path
    if kind == "sentinel":
        name, _, db = parts.path.lstrip("/").partition("/")
        master, path = unquote(name), f"/{db}" if db else ""
        if not master:
            raise ValueError("redis+sentinel:// needs the name of the master: redis+sentinel://host:26379/name")
    if base != "unix" and path.strip("/") and not path.strip("/").isdecimal():
        raise ValueError(f"{path!r} is no number of a database")
    if kind == "cluster" and path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has the database 0 alone")
    single = f"{base}://{credentials}{at}{places if kind == 'single' else 'host'}{path}?{parts.query}"
    options: dict[str, Any] = dict(parse_url(single))
    options.pop("connection_class", None)
    if kind != "single":
        del options["host"]
    sentinel = {name.removeprefix("sentinel_"): options.pop(name) for name in _SENTINEL_OPTIONS & options.keys()}
    return RedisAddress(kind, tls, nodes, master, options, sentinel)


def _check_options(query: str, *, tls: bool, kind: Kind) -> None:
    known = _OPTIONS | (_TLS_OPTIONS if tls else set()) | (_SENTINEL_OPTIONS if kind == "sentinel" else set())
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            hint = "; it needs rediss://" if name in _TLS_OPTIONS else f"; there are {', '.join(sorted(known))}"
            raise ValueError(f"unknown option {name!r}{hint}")


def _node(place: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("a host is missing before or after a comma")
    return parts.hostname, parts.port or default_port
