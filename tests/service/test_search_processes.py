"""The real command with an index: what it says at its start, several workers, and another bundle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bundle.store import Bundle
from tests.service.helpers import eventually, make_bundle, photo
from tests.service.indexes import add_rows, embed, rows, spec_of, write_index
from tests.service.ipc.helpers import ROOT, Fleet, fleet

PHOTOS = [photo(i) for i in range(5)]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    root = tmp_path_factory.mktemp("bundles")
    return make_bundle(root / "a", name="a"), make_bundle(root / "b", name="b")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """pytest's own may be too deep for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="m") as folder:
        yield Path(folder)


def index_of(bundle: Bundle, folder: Path) -> Path:
    """Of PHOTOS; in place of another that is there."""
    return write_index(folder, rows(embed(bundle, PHOTOS), spec_of(bundle)))


def nearest(served: Fleet, image: bytes) -> tuple[int, str]:
    """The status, and the nearest row's path or the error's message. Over a connection of its own."""
    answer = httpx.post(f"{served.url}/search", content=image, params={"k": 1}, timeout=20, trust_env=False)
    told: dict[str, Any] = answer.json()
    return answer.status_code, told["results"][0][0]["path"] if answer.is_success else told["error"]["message"]


def run(bundle: Bundle, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, where it ends by itself."""
    command = [
        sys.executable,
        "-m",
        "service",
        "--runtime",
        "fake",
        "--port",
        "0",
        "--bundle",
        str(bundle.path),
        *flags,
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAEVE_")}
    return subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_check_says_what_would_be_searched(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    index = index_of(bundles[0], tmp_path / "index")
    checked = run(bundles[0], "--check", MAEVE_SEARCH_INDEX=str(index), MAEVE_THUMBNAILS=str(tmp_path))
    digest = bundles[0].manifest.digest[:12]
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines()[1] == (
        f"ready to search 5 rows of {index}, made in fp32 of the bundle a ({digest})"
    )


@pytest.mark.parametrize("flags", [("--check",), (), ("--workers", "2")], ids=["check", "one process", "workers"])
def test_an_index_of_another_bundle_ends_the_start_with_one_line(
    bundles: tuple[Bundle, Bundle], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    ended = run(bundles[1], *flags, "--search-index", str(index_of(bundles[0], tmp_path / "index")))
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert f"holds vectors of the bundle a ({bundles[0].manifest.digest[:12]}), and the bundle b" in line
    assert "python -m bulk.embed, then python -m bulk.index" in line
    assert "Traceback" not in ended.stderr


def test_what_is_missing_ends_the_start_with_one_line(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    """An index, LanceDB (which a module without anything hides here), the folder of thumbnails."""
    (tmp_path / "hiding").mkdir()
    (tmp_path / "hiding" / "lancedb.py").write_text("raise ImportError('not installed')")
    hidden = os.pathsep.join([str(tmp_path / "hiding"), os.environ.get("PYTHONPATH", "")])
    gone, index = tmp_path / "gone", index_of(bundles[0], tmp_path / "index")
    for ended, message in (
        (run(bundles[0], "--workers", "2", "--search-index", str(gone)), f"error: there is no index at {gone}"),
        (run(bundles[0], "--check", "--search-index", str(index), PYTHONPATH=hidden), "pip install -e '.[search]'"),
        (run(bundles[0], "--check", "--thumbnails", str(gone)), "error: MAEVE_THUMBNAILS: there is no folder"),
        (
            run(bundles[0], "--check", "--search-index", "db://mine"),
            "error: --search-index: must be a folder",
        ),
    ):
        assert (ended.returncode, ended.stdout) == (2, "")
        [line] = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
        assert message in line
        assert "Traceback" not in ended.stderr
    assert not gone.exists()


def test_nothing_of_it_is_imported_where_no_index_is_named(bundles: tuple[Bundle, Bundle]) -> None:
    code = (
        "import sys; from service.__main__ import main; main(sys.argv[1:]);"
        "sys.exit(bool({'lancedb', 'pyarrow'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, "--check", "--runtime", "fake", "--bundle", str(bundles[0].path)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAEVE_")}
    subprocess.run(command, cwd=ROOT, env=clean, check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_every_worker_searches_and_sees_what_is_added(
    bundles: tuple[Bundle, Bundle], short_folder: Path, tmp_path: Path
) -> None:
    bundle, index = bundles[0], index_of(bundles[0], tmp_path / "index")
    with fleet(bundle.path, short_folder, "--workers", "2", "--search-index", str(index)) as served:
        for i, image in enumerate(PHOTOS * 3):
            assert nearest(served, image) == (200, f"{i % 5:03}.png")
        add_rows(index, rows(embed(bundle, [photo(77)]), spec_of(bundle), first=77))
        eventually(lambda: [nearest(served, photo(77)) for _ in range(8)] == [(200, "077.png")] * 8, 40)
        [victim] = [each["pid"] for each in served.processes()["workers"] if each["name"] == "http-0"]
        index.rename(index.with_name("away"))
        os.kill(victim, signal.SIGKILL)  # its successor serves all else
        eventually(lambda: {each["state"] for each in served.processes()["workers"]} == {"serving"}, 30)
        eventually(served.ready)
        assert {nearest(served, photo(1))[0] for _ in range(8)} == {503}
        assert {served.post(photo(1)).status_code for _ in range(8)} == {200}
        index.with_name("away").rename(index)
        eventually(lambda: {nearest(served, photo(1)) for _ in range(8)} == {(200, "001.png")}, 30)


@pytest.mark.parametrize("workers", [1, 2])
def test_another_bundle_is_served_without_a_search_until_an_index_fits(
    bundles: tuple[Bundle, Bundle], short_folder: Path, tmp_path: Path, workers: int
) -> None:
    """Made after the switch, and then, for the way back, before it: that leaves no gap."""
    link = tmp_path / "current"
    link.symlink_to(bundles[0].path)
    index = index_of(bundles[0], tmp_path / "index")
    with fleet(link, short_folder, "--workers", str(workers), "--search-index", str(index)) as served:
        assert nearest(served, photo(1)) == (200, "001.png")
        switch(served, link, bundles[1])
        status, message = nearest(served, photo(1))
        assert status == 503
        assert "holds vectors of the bundle a" in message
        assert served.post(photo(1)).status_code == 200
        assert served.ready()
        index_of(bundles[1], index)
        eventually(lambda: {nearest(served, photo(1)) for _ in range(8)} == {(200, "001.png")}, 30)
        index_of(bundles[0], index)
        eventually(lambda: "not searched until the bundle is switched" in served.log.read_text(), 30)
        assert {nearest(served, photo(1)) for _ in range(8)} == {(200, "001.png")}  # the version before
        switch(served, link, bundles[0])
        assert {nearest(served, photo(1)) for _ in range(8)} == {(200, "001.png")}


def switch(served: Fleet, link: Path, bundle: Bundle) -> None:
    """To another bundle, until every worker that is asked serves it."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(bundle.path)
    fresh.replace(link)
    served.process.send_signal(signal.SIGHUP)
    digest = bundle.manifest.digest
    eventually(lambda: {served.get("/info").json()["digest"] for _ in range(8)} == {digest}, 30)
