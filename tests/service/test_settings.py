from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundle.cli.flags import UsageError
from service.ipc.child import dump_settings
from service.settings import Settings, SettingsError, read_settings
from service.worker import share

ROOT = Path(__file__).parents[2]


def test_the_environment_is_read_and_flags_override_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAEVE_PORT", "9000")
    monkeypatch.setenv("MAEVE_MAX_IMAGES", "7")
    settings = read_settings(["--port", "9001", "--bundle", "bundles/a"])
    assert (settings.port, settings.max_images, settings.bundle) == (9001, 7, Path("bundles/a"))


def test_an_empty_variable_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAEVE_LANES", "")
    monkeypatch.setenv("MAEVE_REDIS_URL", "")
    assert read_settings([]).lanes is None
    assert read_settings([]).redis_url is None


@pytest.mark.parametrize(
    ("name", "closest"),
    [("MAEVE_BUNDEL", "MAEVE_BUNDLE"), ("MAEVE_REDIS", "MAEVE_REDIS_URL"), ("maeve_prot", "MAEVE_PORT")],
)
def test_an_unknown_variable_is_named_with_the_closest_that_exists(
    monkeypatch: pytest.MonkeyPatch, name: str, closest: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=rf"unknown setting {name}; did you mean {closest}\?"):
        Settings()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--port", "70000"], "^--port must be at most 65535, got 70000$"),
        (["--port", "abc"], "^--port takes a whole number, got 'abc'$"),
        (["--port", "8000.5"], r"^--port takes a whole number, got '8000\.5'$"),
        (
            ["--runtime", "onnxrutime"],
            r"^--runtime must be auto, .* or fake, got 'onnxrutime'; did you mean onnxruntime\?$",
        ),
        (["--traces", "maybe"], "^--traces must be true or false, got 'maybe'$"),
        (["--timeout-ms", "inf"], "^--timeout-ms takes a number, got 'inf'$"),
        (["--devices", "gpu"], "^--devices: must be cpu, cuda, cuda:1 or several such separated by commas, got 'gpu'$"),
        (["--redis-prefix", "a b"], "^--redis-prefix: takes up to 64 letters, digits and any of .*, got 'a b'$"),
        (
            ["--port", "-1", "--workers", "0"],
            "^--port must be at least 0, got -1; --workers must be at least 1, got 0$",
        ),
        (["--max-queue", "10"], r"max_queue \(10\) must be at least max_images \(64\)"),
        (["--redis-url", "localhost"], "--redis-url: must begin with one of redis://"),
        (["--stall-s", "0.4"], r"^--stall-s must be at least 1, got 0\.4$"),
        (["--timeout-ms", "0"], "^--timeout-ms must be above 0, got 0$"),
    ],
)
def test_a_value_out_of_range_is_named_as_it_was_given(argv: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(argv)


def test_a_bad_variable_is_named_as_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAEVE_PRECISION", "fp64")
    with pytest.raises(SettingsError, match=r"^MAEVE_PRECISION must be auto, fp32, bf16, fp16 or int8, got 'fp64'"):
        read_settings([])


def test_the_key_has_no_flag_and_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAEVE_API_KEY", "hush")
    assert "hush" not in repr(read_settings([]))
    with pytest.raises(UsageError) as caught:
        read_settings(["--api-key", "hush"])
    assert "there is no flag --api-key;" in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "argv", "message"),
    [
        ({"MAEVE_PROT": "1"}, [], "error: unknown setting MAEVE_PROT; did you mean MAEVE_PORT?"),
        ({}, ["--bundle", "nowhere"], "error: nowhere is no folder; name the one that python -m export wrote"),
    ],
)
def test_the_command_ends_with_one_line_and_status_2(
    environment: dict[str, str], argv: list[str], message: str
) -> None:
    command = [sys.executable, "-m", "service", *argv]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_devices_are_named_in_one_way() -> None:
    assert Settings().device_names == ("auto",)
    assert Settings(device="cuda:1").device_names == ("cuda:1",)
    assert Settings(devices="cuda:0,cuda:1").device_names == ("cuda:0", "cuda:1")
    with pytest.raises(SettingsError, match="exclude each other"):
        read_settings(["--devices", "cuda:0,cuda:1", "--device", "cpu"])


@pytest.mark.parametrize(
    ("settings", "several"),
    [({}, False), ({"workers": 2}, True), ({"devices": "cpu"}, False), ({"devices": "cpu,cpu"}, True)],
)
def test_when_devices_have_processes_of_their_own(settings: dict[str, Any], several: bool) -> None:
    assert Settings(**settings).has_device_processes is several


def test_the_key_reaches_a_child_and_paths_do_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAEVE_API_KEY", "secret")
    settings = Settings(bundle=tmp_path, workers=3, lanes=2)
    told = json.loads(json.dumps(dump_settings(settings)))
    monkeypatch.delenv("MAEVE_API_KEY")
    again = Settings(**told)
    assert again == settings
    assert again.api_key is not None
    assert again.api_key.get_secret_value() == "secret"


def test_workers_share_places_and_memory() -> None:
    shared = share(Settings(workers=3, max_queue=100, max_images=20, cache_bytes=999, decode_threads=5))
    assert (shared.max_queue, shared.cache_bytes, shared.decode_threads) == (34, 333, 2)
    assert share(Settings(workers=8, max_queue=256, max_images=64)).max_queue == 64


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"MAEVE_METRICS_API_KEY": "true"}, "metrics_api_key asks for a key, and there is none"),
        ({"MAEVE_API_KEY": " "}, "MAEVE_API_KEY: must not begin or end with a blank"),
        ({"MAEVE_DEVICE": "gpu"}, "MAEVE_DEVICE: must be auto, cpu, cuda or one such as cuda:1, got 'gpu'"),
    ],
)
def test_what_would_do_nothing_or_lock_all_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        read_settings([])
