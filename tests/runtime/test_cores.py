"""cgroup limits, from folders as the kernel shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.cores import cgroup_quota, usable_cores


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_no_cgroups_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "none", tmp_path / "missing") is None


def test_a_container_sees_its_limit_at_the_root(tmp_path: Path) -> None:
    write(tmp_path / "own", "0::/\n")
    write(tmp_path / "fs" / "cpu.max", "250000 100000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "own") == 2.5


def test_the_tightest_limit_above_counts(tmp_path: Path) -> None:
    write(tmp_path / "own", "0::/system.slice/maeve.service\n")
    write(tmp_path / "fs" / "system.slice" / "cpu.max", "150000 100000\n")
    write(tmp_path / "fs" / "system.slice" / "maeve.service" / "cpu.max", "400000 100000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "own") == 1.5


def test_no_limit_is_spelled_max(tmp_path: Path) -> None:
    write(tmp_path / "own", "0::/a\n")
    write(tmp_path / "fs" / "a" / "cpu.max", "max 100000\n")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "own") is None


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3.0), ("-1", None)])
def test_version_one(tmp_path: Path, quota: str, expected: float | None) -> None:
    write(tmp_path / "own", "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n")
    write(tmp_path / "fs" / "cpu" / "docker" / "x" / "cpu.cfs_quota_us", quota)
    write(tmp_path / "fs" / "cpu" / "docker" / "x" / "cpu.cfs_period_us", "100000")
    assert cgroup_quota(tmp_path / "fs", tmp_path / "own") == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux's affinity")
def test_affinity_counts() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= usable_cores() <= len(allowed)
