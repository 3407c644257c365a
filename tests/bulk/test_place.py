"""Where the output goes: files that are whole, folders and stores that do not take them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from bulk.errors import BulkError
from bulk.place import STATE, Place, open_place, read
from tests.servers import ROOT


@pytest.fixture(params=["folder", "memory", "file-url"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The last is a URL of a store where an upload is seen while it lasts."""
    urls = {"folder": str(tmp_path / "out"), "memory": f"memory://{uuid4().hex}", "file-url": f"file://{tmp_path}/out"}
    return open_place(urls[request.param])


def test_what_is_written_is_there(place: Place) -> None:
    assert place.names() == place.names(STATE) == set()
    with place.locked():
        place.write("part-000000.parquet", b"one")
        place.write(f"{STATE}/run.json", b"{}")
        place.write("part-000000.parquet", b"another")
    assert place.names() == {"part-000000.parquet", STATE}
    assert place.names(STATE) == {"run.json"}
    there: Place = pickle.loads(pickle.dumps(place))  # noqa: S301 - our own
    assert read(there, "part-000000.parquet") == b"another"
    with there.open("part-000000.parquet") as file:
        file.seek(2)
        assert file.read(3) == b"oth"
    with pytest.raises(BulkError, match=r"cannot read .*part-000009\.parquet"):
        place.open("part-000009.parquet")


def test_a_folder_that_must_not_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = open_place(tmp_path / "file" / "out")
    with (
        pytest.raises(BulkError, match=r"cannot write .*_maeve: Not a directory; choose another --out"),
        place.locked(),
    ):
        pass


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A limit on the size of files is met as a full disk is: some of it is written, and then no more."""
    code = (
        "import resource, signal, sys\n"
        "from bulk.place import open_place\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "open_place(sys.argv[1]).write('part-000000.parquet', bytes(5000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "BulkError: cannot write" in done.stderr
    assert "File too large" in done.stderr
    assert os.listdir(tmp_path / STATE) == []  # noqa: PTH208
    assert not (tmp_path / "part-000000.parquet").exists()


def test_a_second_run_is_refused_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    (tmp_path / STATE).mkdir()
    (tmp_path / STATE / ".part-000000.parquet.0a1b.partial").touch()
    place = open_place(tmp_path)
    with place.locked():
        assert place.names(STATE) == set()
        with pytest.raises(BulkError, match="another run is writing to"), open_place(tmp_path).locked():
            pass
    with place.locked():
        pass


def test_a_url_of_no_known_kind() -> None:
    with pytest.raises(BulkError, match=r"cannot read nowhere://out"):
        open_place("nowhere://out").names()
