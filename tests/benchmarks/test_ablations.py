"""benchmarks.ablations on small made images: every run once, every axis told and drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import ablations, report
from benchmarks.ablation_picture import MAX_BYTES, Panel, Point, draw
from benchmarks.ablation_study import TRAINED
from training import probing, sweeping
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain

CELLS = ("mask-ratio-0.5_", "decoder-depth-1_", "loss-l1_", "target-raw")  # beside the recipe's own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Bright images and dark ones, and where the results go."""
    out, rng = tmp_path_factory.mktemp("ablations"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name, level in (("bright", 170), ("dark", 70)):
            (out / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = (level + rng.normal(0, 25, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(out / part / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        for module in (report, ablations):
            patch.setattr(module, "RESULTS", out / "results")
        patch.setattr(probing, "write_report", lambda run: run)  # has tests of its own, and takes longer than a probe
        yield out


@pytest.fixture(scope="module")
def arguments(folder: Path) -> list[str]:
    places = ["--data", str(folder / "train"), "--test", str(folder / "test"), "--work", str(folder / "work")]
    flags = "--mask-ratios 0.5 --decoder-depths 1 --keeps 0.5 --depth 1 --epochs 1 --batch-size 8"
    return [*places, *flags.split()]


@pytest.fixture(scope="module")
def trained() -> Iterator[list[str]]:
    """The runs that were begun so far."""
    started = list[str]()

    def counted(config: PretrainConfig) -> Path:
        started.append(config.out.name)
        return pretrain(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeping, "pretrain", counted)
        yield started


@pytest.fixture(scope="module")
def result(arguments: list[str], trained: list[str]) -> Path:
    path, failed = ablations.run(ablations.parse(arguments))
    assert failed == []
    assert trained
    return path


def tables(path: Path) -> dict[str, list[list[str]]]:
    """The rows below the head of every table, by the first word of that."""
    blocks = re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE)
    rows = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()] for block in blocks]
    return {head[0]: body for head, _, *body in rows}


def test_the_recipe_s_own_run_is_made_once_for_all_axes(result: Path, trained: list[str]) -> None:
    assert result.exists()
    assert len(trained) == len(set(trained)) == 1 + len(CELLS)
    assert sum(not any(cell in name for cell in CELLS) for name in trained) == 1
    for cell in CELLS:
        assert sum(cell in name for name in trained) == 1


def test_every_axis_has_a_table(result: Path) -> None:
    found = tables(result)
    assert {name: [row[0] for row in rows] for name, rows in found.items() if name} == {
        "mask ratio": ["0.5", "0.75, the recipe's"], "decoder depth": ["1", "2, the recipe's"],
        "loss": ["mse, the recipe's", "l1"], "target": ["raw", "normalized, the recipe's"],
        "pooling": ["cls", "mean", "both"], "keep": ["1", "0.5"],
    }  # fmt: skip
    own = {rows[-1][1] for rows in (found["mask ratio"], found["decoder depth"], found["target"])}
    assert own == {"100.0% ± 0.0"}  # bright or dark: the same run in all tables
    assert float(found["decoder depth"][0][2]) != float(found["decoder depth"][1][2])
    assert [row[1:3] for row in found["keep"]] == [["64", "1.00x"], ["32", found["keep"][1][2]]]
    setting = dict(found[""])
    assert setting["images"] == "train: 24 to pre-train on; probes learn from all their labels"
    assert setting["pre-training"].startswith("1 epoch of 3 steps of 8")
    assert setting["network"] == "32 x 32 px, patch 4, encoder 1 x 192, decoder 2 x 128"


def test_the_figure_shows_the_photos_as_they_are(result: Path, folder: Path) -> None:
    with Image.open(result.with_suffix(".png")) as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape[1] == 1000
    assert result.with_suffix(".png").stat().st_size < MAX_BYTES
    photo = PackedDataset(folder / "work" / "pack-test").pixels(np.array([0]))[0]
    tile = photo.repeat(3, axis=0).repeat(3, axis=1)
    x = int(np.flatnonzero((sheet[:, :-1] == tile[0, 0]).all(axis=2).any(axis=0))[0])
    shown = [y for y in range(len(sheet) - 96) if np.array_equal(sheet[y : y + 96, x : x + 96], tile)]
    assert len(shown) == 4  # once beside every axis that was trained for


@pytest.mark.usefixtures("result")
def test_nothing_is_trained_twice_and_a_failure_is_told(
    arguments: list[str], trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(trained)
    again, _ = ablations.run(ablations.parse([*arguments, "--axes", *TRAINED, "pooling"]))
    assert trained == before
    own = tables(again)["mask ratio"][1]
    monkeypatch.setattr("sys.argv", ["ablations", *arguments, "--axes", "mask_ratio", "--mask-ratios", "0.99"])
    with pytest.raises(SystemExit) as ended:
        ablations.main()
    assert ended.value.code == 1
    assert "failed: mask ratio 0.99: mask_ratio 0.99 keeps none of 64 patches; lower it" in capsys.readouterr().err
    assert tables(again)["mask ratio"] == [own, ["0.99", "failed", ""]]


def test_large_photos_and_several_seeds_still_make_a_small_file() -> None:
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(3, 224, 224, 3)).cumsum(axis=1).cumsum(axis=2)
    photos = (smooth / np.abs(smooth).max() * 127 + 128).astype(np.uint8)
    points = [Point(str(i), [0.4 + 0.01 * i, 0.42], 0.014, is_recipe=i == 1, photos=photos) for i in range(4)]
    panels = [Panel(f"axis {i}", points, joined=True, given=(photos, photos)) for i in range(4)]
    png = draw(panels, "two seeds")
    assert len(png) < MAX_BYTES
    with Image.open(io.BytesIO(png)) as image:
        assert image.width == 1000


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--keeps 0", "--keeps must lie above 0"), ("--seeds 1 1", "--seeds must not name one twice")],
)
def test_bad_flags_are_refused(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablations.parse(["--data", "d", "--test", "t", "--work", "w", *flags.split()])
    assert message in capsys.readouterr().err
