"""How many cores this process may really use: what the scheduler allows, and what a container was given."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """At least 1. A quota of 2.5 cores counts as 2: a third lane would be throttled and slow the others down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def lanes_on_cpu(lanes: int | None) -> int:
    """`lanes`, or every usable core where it is None. ValueError for less than one."""
    if lanes is not None and lanes < 1:
        raise ValueError(f"lanes must be at least 1, got {lanes}")
    return usable_cores() if lanes is None else lanes


def cgroup_quota(cgroups: Path = _CGROUPS, own_cgroup: Path = _OWN_CGROUP) -> float | None:
    """Cores' worth of time that cgroups, version 2 or 1, grant this process; None without a limit.

    A limit may stand on any group above the process's own, so all of them are asked.
    """
    quotas = [q for group in _groups(cgroups, own_cgroup) if (q := _group_quota(group)) is not None]
    return min(quotas, default=None)


def _groups(cgroups: Path, own_cgroup: Path) -> list[Path]:
    """The folders of this process's groups and of those above them. Lines read "id:controllers:/path"."""
    groups = [cgroups, cgroups / "cpu"]
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:  # no Linux, or /proc is hidden
        return groups
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups if not controllers else cgroups / "cpu" if "cpu" in controllers.split(",") else None
        if root is not None:
            group = root / path.lstrip("/")
            groups += [group, *(p for p in group.parents if p.is_relative_to(root))]
    return groups


def _group_quota(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()  # version 2: "max 100000" or "250000 100000"
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()  # version 1: -1 means no limit
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else float(quota) / float(period)
