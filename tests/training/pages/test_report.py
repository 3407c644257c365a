"""report.html says what the run's files say, at any moment of the run, whatever of them is missing or damaged."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mae.weights import load_mae
from training.errors import TrainingError
from training.features import write_features
from training.finetune import FinetuneConfig, finetune
from training.packed import PackedDataset
from training.pretrain import COMMAND
from training.probe import ProbeConfig, probe
from training.report import write_report

Read = Callable[[Path], Any]
PRETRAIN = ["result", "loss", "probes", "reconstructions", "features", "speed"]
FINETUNE = ["result", "validation", "classes", "loss", "speed"]
ALWAYS = ["environment", "configuration", "repeat"]


@pytest.fixture(scope="module")
def tuned(
    packed: PackedDataset, other_photos: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tuned"
    finetune(
        FinetuneConfig(
            data=packed.folder, test=other_photos, init=pretrained, out=out, finetune_recipe="plain", epochs=3
        )
    )
    return out


@pytest.fixture
def run(pretrained: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(pretrained, tmp_path / "run"))


def decoded(address: str) -> Image.Image:
    """The image of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))).convert("RGB")


def change(run: Path, **fields: Any) -> None:
    document = json.loads((run / "run.json").read_text())
    document.update(fields)
    (run / "run.json").write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def add_rows(run: Path, *rows: dict[str, Any]) -> None:
    with (run / "metrics.jsonl").open("a") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def test_a_pre_training(run: Path, packed: PackedDataset, read_page: Read) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = [{k: v for k, v in row.items() if not k.startswith("probe_")} for row in rows]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    for epoch, right in ((5, 0.25), (8, 0.8), (10, 0.75)):
        add_rows(run, {"step": 4 * epoch, "epoch": epoch, "probe_ridge_mean": right, "probe_knn_cls": right / 2})
    write_features(run, load_mae(run), packed, torch.device("cpu"))
    page = read_page(write_report(run))
    assert list(page.sections) == PRETRAIN + ALWAYS
    loss = json.loads((run / "run.json").read_text())["metrics"]["reconstruction_loss"]
    assert page.tables[0][1:] == [["reconstruction loss", f"{loss:.4g}"]]
    assert page.verdict == (
        f"The reconstruction loss is {loss:.4g}, and a probe of its features (ridge, mean) is right in 75.0 %."
    )
    assert page.tables[1][1:] == [["ridge, mean", "75.0 %", "80.0 %"], ["kNN, cls", "37.5 %", "40.0 %"]]
    said = "ridge, mean from 0.25 to 0.75, best 0.8 at epoch 8"
    assert f"The accuracy of probes of the features over the epochs: {said}" in page.alts
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert f"The training loss over the epochs: from {losses[0]:.4g} to {losses[-1]:.4g}" in page.alts
    assert [a for a in page.alts if a.startswith("Reconstructions after epoch")] == [
        f"Reconstructions after epoch {epoch}: what the network makes of what it sees, image by image"
        for epoch in (4, 8, 10)
    ]
    assert any(a.startswith("t-SNE map of 120 images by pre-trained encoder, coloured by their 3") for a in page.alts)
    for name in ("blue", "green", "red"):
        assert name in page.sections["features"]


def test_the_map_is_of_the_images_that_have_labels(
    packed: PackedDataset, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_mae(pretrained)
    labels = packed.labels.copy()
    labels[10:] = -1
    monkeypatch.setattr(packed, "labels", labels)
    path = write_features(tmp_path, model, packed, torch.device("cpu"))
    assert path is not None
    with np.load(path) as arrays:
        assert arrays["points"].shape == (10, 2)
        assert arrays["labels"].tolist() == labels[:10].tolist()
    labels[5:] = -1
    assert write_features(tmp_path / "none", model, packed, torch.device("cpu")) is None


def test_a_fine_tuning(tuned: Path, read_page: Read) -> None:
    page = read_page(write_report(tuned))
    assert list(page.sections) == FINETUNE + ALWAYS
    metrics = json.loads((tuned / "run.json").read_text())["metrics"]
    assert ["test top-1", f"{100 * metrics['test_top1']:.1f} %"] in page.tables[0]
    assert page.verdict.startswith(f"Test top-1 {100 * metrics['test_top1']:.1f} %, validation top-1 ")
    assert page.verdict.endswith("; guessing gives 33.3 %.")
    (by_class,) = [t for t in page.tables if t[0][0] == "class"]
    assert [row[:2] for row in by_class[1:]] == [
        ["blue", "10"],
        ["green", "10"],
        ["red", "10"],
        ["macro average", "30"],
    ]
    assert float(by_class[-1][2]) == pytest.approx(metrics["test_f1"], abs=6e-4)
    assert any("Confusion matrix on the 30 images of the test set" in alt for alt in page.alts)
    rows = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    losses = {row["epoch"]: row["val_loss"] for row in rows if "val_loss" in row}
    epoch = min(losses, key=lambda epoch: losses[epoch])
    (alt,) = [alt for alt in page.alts if alt.startswith("The loss on the validation split over the epochs")]
    assert alt.endswith(f", best {losses[epoch]:.4g} at epoch {epoch:.4g}")
    shares = [float(found) for found in re.findall(r'class="share" style="--share: ([\d.]+)"', page.path.read_text())]
    assert shares == [float(row[2]) for row in by_class[1:]]


def test_many_classes_are_a_picture_and_the_best_and_the_worst(tuned: Path, tmp_path: Path, read_page: Read) -> None:
    run = Path(shutil.copytree(tuned, tmp_path / "many"))
    names = [f"class {k}" for k in range(40)]
    document = json.loads((run / "run.json").read_text())
    change(run, data={**document["data"], "classes": names})
    labels = np.repeat(np.arange(40), 10)
    predicted = labels.copy()
    predicted[labels == 7] = 8  # all of 7 is taken for 8
    np.savez(run / "predictions.npz", test_logits=np.eye(40, dtype=np.float32)[predicted], test_labels=labels)
    page = read_page(write_report(run))
    best, worst = page.tables[-2], page.tables[-1]
    assert len(best) == len(worst) == 11
    assert [row[2] for row in best[1:]] == ["1.000"] * 10
    assert list(worst[1:3]) == [["class 7", "10", "0.000"], ["class 8", "10", "0.667"]]
    assert "class 20" not in page.sections["classes"]


def test_a_probe(packed: PackedDataset, pretrained: Path, tmp_path: Path, read_page: Read) -> None:
    probe(ProbeConfig(data=packed.folder, init=pretrained, out=tmp_path / "probed"))
    page = read_page(write_report(tmp_path / "probed"))
    assert list(page.sections) == ["result", "classes", *ALWAYS]
    metrics = json.loads((tmp_path / "probed" / "run.json").read_text())["metrics"]
    assert ["probe validation top-1", f"{100 * metrics['probe_val_top1']:.1f} %"] in page.tables[0]


def test_a_run_that_is_not_finished(run: Path, read_page: Read) -> None:
    change(run, metrics=None)
    lines = (run / "metrics.jsonl").read_text().splitlines()[:10]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n" + '{"step": 11, "epo')  # killed while it wrote
    page = read_page(write_report(run))
    loss = [json.loads(line)["loss"] for line in lines if "loss" in line][-1]
    assert page.verdict == f"Not finished: 2 of 10 epochs are done; the loss is {loss:.4f}."
    assert "There are no final metrics" in page.sections["result"]
    assert "Rows of metrics.jsonl that cannot be read and are left out: 1." in page.sections["result"]


def test_a_run_that_has_just_begun(run: Path, read_page: Read) -> None:
    for path in run.iterdir():
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    change(run, metrics=None)
    page = read_page(write_report(run))
    assert page.verdict == "Not finished: 0 of 10 epochs are done."
    assert list(page.sections) == PRETRAIN + ALWAYS
    assert "metrics.jsonl has no row with a loss yet." in page.sections["loss"]
    assert "There are no pictures of reconstructions yet." in page.sections["reconstructions"]
    assert "There is no features.npz" in page.sections["features"]


@pytest.mark.parametrize(
    ("file", "content", "section", "said"),
    [
        ("reconstructions/epoch-0008.png", b"\x89PNG no", "reconstructions", "epoch-0008.png cannot be read."),
        ("features.npz", b"PK no", "features", "features.npz is damaged"),
        ("metrics.jsonl", b"\xff\xfe\n[1]\nnull\n", "result", "cannot be read and are left out: 3."),
    ],
)
def test_a_damaged_file_costs_its_own_piece_alone(
    file: str, content: bytes, section: str, said: str, run: Path, read_page: Read
) -> None:
    (run / file).write_bytes(content)
    page = read_page(write_report(run))
    assert said in page.sections[section]
    assert list(page.sections) == PRETRAIN + ALWAYS
    assert "python -m training.pretrain" in page.sections["repeat"]


def test_arrays_that_do_not_fit_cost_their_own_piece_alone(
    run: Path, tuned: Path, tmp_path: Path, read_page: Read
) -> None:
    np.savez(run / "features.npz", points=np.full((3, 2), np.nan), labels=np.zeros(3, np.int64))
    assert "damaged" in read_page(write_report(run)).sections["features"]
    np.savez(run / "features.npz", points=np.zeros((3, 2)))
    assert "damaged" in read_page(write_report(run)).sections["features"]
    other = Path(shutil.copytree(tuned, tmp_path / "other"))
    np.savez(other / "predictions.npz", test_logits=np.zeros((2, 9)), test_labels=np.zeros(2, np.int64))
    page = read_page(write_report(other))
    assert "(2, 9) for 2 labels, 3 classes" in page.sections["classes"]
    assert "test top-1" in page.sections["result"]


def test_the_images_stand_once_beside_what_each_epoch_made_of_them(run: Path, read_page: Read) -> None:
    sheet = Image.new("RGB", (3 * 40 + 2 * 4, 84), "white")
    for column, color in enumerate(("red", "lime", "blue")):
        sheet.paste(color, (44 * column, 0, 44 * column + 40, 84))
    for file in (run / "reconstructions").iterdir():
        sheet.save(file)
    page = read_page(write_report(run))
    columns = [decoded(address) for address in page.loads if address.startswith("data:image/png")]
    assert [image.size for image in columns] == [(40, 84)] * 5
    assert [image.getcolors() for image in columns] == [
        [(40 * 84, color)] for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 255), (0, 0, 255))
    ]


def test_large_pictures_are_made_smaller(run: Path, read_page: Read) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1820, 684, 3), np.uint8)
    shutil.rmtree(run / "reconstructions")
    (run / "reconstructions").mkdir()
    for epoch in range(1, 13):
        Image.fromarray(noise).save(run / "reconstructions" / f"epoch-{epoch:04d}.png", compress_level=0)
    page = write_report(run)
    assert page.stat().st_size < 5e6
    shown = [a.split(":")[0] for a in read_page(page).alts if a.startswith("Reconstructions after")]
    assert shown[0] == "Reconstructions after epoch 1"
    assert shown[-1] == "Reconstructions after epoch 12"
    assert len(shown) == 6


def test_the_environment_and_the_configuration_are_on_the_page(pretrained: Path, run: Path, read_page: Read) -> None:
    page = read_page(write_report(run))
    document = json.loads((run / "run.json").read_text())
    assert document["environment"]["torch"] == torch.__version__
    for name in ("python", "torch", "cores", "gpu"):
        shown = document["environment"][name] or "\N{EN DASH}"
        assert f"{name}{shown}" in page.sections["environment"]
    assert document["started_at"] in page.sections["environment"]
    assert document["git_commit"] is None or document["git_commit"] in page.sections["environment"]
    assert "mask_ratio\N{EN DASH}" in page.sections["configuration"]
    assert str(pretrained) in page.sections["configuration"]


def test_the_command_gives_the_very_configuration_again(run: Path, read_page: Read) -> None:
    page = read_page(write_report(run))
    command = page.sections["repeat"].split("To repeat it")[1].split()
    assert command[:3] == ["python", "-m", "training.pretrain"]
    again = json.loads(json.dumps(asdict(COMMAND.parse(command[3:])), default=str))
    assert again == json.loads((run / "run.json").read_text())["config"]


def test_names_are_not_markup(run: Path, read_page: Read) -> None:
    document = json.loads((run / "run.json").read_text())
    change(run, data={**document["data"], "name": "<script>alert(1)</script>"})
    assert "<script>alert(1)</script>" in read_page(write_report(run)).sections["result"]


@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_what_is_no_run_is_one_line(content: bytes | None, tmp_path: Path, command: Callable[..., Any]) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    outcome = command("training.report", tmp_path)
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert "run" in outcome.err
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(TrainingError):
        write_report(tmp_path)


def test_the_command_says_where_the_page_is(run: Path, command: Callable[..., Any]) -> None:
    outcome = command("training.report", run)
    assert (outcome.status, outcome.out) == (0, f"{run / 'report.html'}\n")
