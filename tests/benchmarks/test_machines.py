"""benchmarks.machines: the arithmetic by hand, and the tables that a page repeats."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.machines import Image, Offer, machines_for, measured, parse, per_million, tables, updated

ROOT = Path(__file__).parents[2]
IMAGE = Image(
    decode_ms=2, network_ms=7, http_ms=1, request_bytes=125_000, answer_bytes=2_500, read_us=4, write_us=6,
    vector_bytes=1_000,
)  # fmt: skip
GIVEN = [
    "--decode-ms=2", "--network-ms=7", "--http-ms=1", "--busy-cores=2", "--busy-speed=1.6", "--request-bytes=125000",
    "--answer-bytes=2500", "--read-us=4", "--write-us=6", "--vector-bytes=1000",
]  # fmt: skip


def test_a_core_decodes_runs_and_answers() -> None:
    """10 ms an image, 3 ms where a GPU runs the network; a hit costs HTTP alone."""
    assert IMAGE.per_core(on_gpu=False) == pytest.approx(100)
    assert IMAGE.per_core(on_gpu=True) == pytest.approx(1000 / 3)
    known = Image(**vars(IMAGE) | {"hits": 0.5, "efficiency": 0.8})
    assert known.core_ms(on_gpu=False) == pytest.approx(5.5)
    assert known.per_core(on_gpu=False) == pytest.approx(800 / 5.5)
    assert known.redis_us() == pytest.approx(4 + 3)


def test_what_is_full_first_is_all_that_a_machine_does() -> None:
    cpu = Offer(cores=8, gbit=10)
    assert cpu.limits(IMAGE) == pytest.approx({"cores": 800, "network": 10_000})
    assert cpu.most(IMAGE) == pytest.approx(800)
    assert Offer(cores=80, gbit=1).most(IMAGE) == pytest.approx(1000)  # 125 kB at 1 Gbit/s
    gpu = Offer(cores=30, gbit=25, gpu_rate=5000)
    assert gpu.limits(IMAGE) == pytest.approx({"cores": 10_000, "network": 25_000, "GPU": 5000})


@pytest.mark.parametrize(("rate", "expected"), [(1, 1), (70, 1), (70.1, 2), (1400, 20)])
def test_no_machine_is_busier_than_planned(rate: float, expected: int) -> None:
    assert machines_for(rate, 100, 0.7) == expected


def test_the_price_of_a_million() -> None:
    assert per_million(3.6, 1000) == pytest.approx(1.0)  # 3.6 million images an hour


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_tables_are_the_arithmetic() -> None:
    """An image takes 10 ms of a core that does 0.8 of one alone: 80 a second, 56 at 70 %."""
    args = parse([*GIVEN, "--cores=100", "--gpu-rate=4000", "--gpu-cores=20", "--gpu-decode-ms=3", "--rates", "5600"])
    found = tables(args)
    assert cells(found["cpu"]) == [["5,600", "100", "1", "cores", "5.60", "5.00", "0.25"]]
    # 20 cores of 4 ms each at 0.8 do 4,000 images a second: as the GPU; two machines at 70 %
    assert [row[1] for row in cells(found["gpu"])] == ["2"]
    assert [row[3] for row in cells(found["gpu"])] == ["70%"]
    assert cells(found["redis"]) == [["5,600", "11,200", "0.056", "1", "0.045"]]


def test_a_gpu_s_rate_is_a_share_of_its_arithmetic_where_none_is_given() -> None:
    """ViT-B/16 at 224: 17.6 G multiply-adds (Dosovitskiy et al. 2021), 35.1 GFLOP."""
    args = parse([*GIVEN, "--gpu-tflops=1000", "--gpu-share=0.5"])
    assert args.gpu_rate == pytest.approx(0.5e15 / 35.1e9, rel=0.01)
    assert "not measured" in tables(args)["inputs"]


@pytest.mark.parametrize("wrong", ["--hits=1", "--utilisation=0", "--cores=0", "--core-price=-1", "--gpu-rate=inf"])
def test_what_no_machine_can_be_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse([*GIVEN, wrong])
    assert refused.value.code == 2
    assert f"argument {wrong.split('=')[0]}: must be" in capsys.readouterr().err


def test_a_result_without_the_figures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has no decode_ms, network_ms"):
        measured(tmp_path / "missing.md")


def test_only_the_places_of_tables_change() -> None:
    page = "before\n\n<!-- table: a -->\n\nold\n\n<!-- end -->\n\nbehind\n"
    assert updated(page, {"a": "| new |"}) == "before\n\n<!-- table: a -->\n\n| new |\n\n<!-- end -->\n\nbehind\n"
    with pytest.raises(ValueError, match=r"places for \['a'\], and the tables are \['b'\]"):
        updated(page, {"b": ""})


def test_the_page_has_the_tables_of_the_results() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert updated(page, tables(parse([]))) == page, "python -m benchmarks.machines --update docs/scaling.md"
