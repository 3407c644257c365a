"""The client of redis-py for an address. It has no time-outs of its own: its user bounds every call as a whole."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection
from redis.backoff import NoBackoff

from service.names import LookUps
from service.redis_url import RedisAddress

_NO_TIMEOUTS: dict[str, Any] = {"socket_timeout": None, "socket_connect_timeout": None}
_LOOK_UPS = LookUps(32)


def connect(address: RedisAddress) -> tuple[Redis | RedisCluster, Sentinel | None]:
    """A client that connects when first used, and what tells it where the master is. Close both."""
    options = {**address.options, **_NO_TIMEOUTS}
    plain = _TlsConnection if address.tls else _NamedConnection
    if address.kind == "cluster":
        return _cluster(address, options, plain), None
    options["retry"] = _once_more()
    if address.kind == "sentinel":
        return _master(address, options, plain)
    kind = UnixDomainSocketConnection if "path" in options else plain
    return Redis.from_pool(ConnectionPool(kind, **options)), None


def _once_more() -> Retry:
    """At once: after a restart of Redis every pooled connection is dead."""
    return Retry(NoBackoff(), 1)


def _master(address: RedisAddress, options: dict[str, Any], plain: type[_NamedConnection]) -> tuple[Redis, Sentinel]:
    sentinel = Sentinel(())  # type: ignore[no-untyped-call]
    asked = {**_NO_TIMEOUTS, **address.sentinel_options}
    sentinel.sentinels = [
        Redis.from_pool(ConnectionPool(plain, host=host, port=port, **asked)) for host, port in address.nodes
    ]
    kind = _TlsMasterConnection if address.tls else _MasterConnection
    client: Redis = sentinel.master_for(address.master, connection_class=kind, **options)
    return client, sentinel


def _cluster(address: RedisAddress, options: dict[str, Any], plain: type[_NamedConnection]) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in address.nodes]
    cluster = RedisCluster(startup_nodes=nodes, ssl=address.tls, retry=_once_more(), **options)
    cluster.connection_kwargs["connection_class"] = plain  # for the nodes that it will learn of
    for node in cluster.startup_nodes:
        node.connection_class = plain
    return cluster


class _NamedConnection(Connection):
    """Looks its host's name up in a way that can be given up."""

    _address = ""

    async def _connect(self) -> None:
        error: OSError | None = None
        for address in await _LOOK_UPS.addresses(self.host, self.port):
            self._address = address
            try:
                await super()._connect()  # type: ignore[no-untyped-call]
            except OSError as e:
                error = e
            else:
                return
        raise error or OSError(f"{self.host} has no address")

    def _connection_arguments(self) -> dict[str, Any]:
        arguments = {**super()._connection_arguments(), "host": self._address}
        return arguments | {"server_hostname": self.host} if "ssl" in arguments else arguments


class _TlsConnection(_NamedConnection, SSLConnection):
    pass


class _MasterConnection(SentinelManagedConnection, _NamedConnection):
    pass


class _TlsMasterConnection(SentinelManagedConnection, _TlsConnection):
    pass
