"""The peers: what each is installed from, how it is started, and in which layouts of processes and threads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.requests import Form, multipart, open_inference, raw
from benchmarks.load.servers import Launch, ServerFailed
from bundle.manifest import Precision
from bundle.store import Bundle

_SERVERS = Path(__file__).parents[1] / "peers_servers"
_COMMON = ("onnxruntime==1.32.0", "numpy==2.4.6", "pillow==13.0.0")
_INSTALL_S = 600


@dataclass(frozen=True)
class Peer:
    """`name`: of its environment and its file. `packages`: what is installed besides `_COMMON`, the peer first.
    `command`: the words behind the environment's folder of programs. `says`: its settings, for the reader.
    """

    name: str
    label: str
    packages: Sequence[str]
    form: Form
    says: str
    command: Sequence[str]

    @property
    def version(self) -> str:
        return self.packages[0].replace("==", " ")


# uvloop: with a newer one MLServer's parallel workers find no event loop.
PEERS = (
    Peer(
        "fastapi", "plain FastAPI + ONNX Runtime", ("fastapi==0.165.0", "uvicorn[standard]==0.54.0"), raw("/embed"),
        "decode and run in the thread pool, uvloop, httptools", ("python", "{servers}/fastapi_server.py"),
    ),
    Peer(
        "litserve", "LitServe", ("litserve==0.2.19",), raw("/embed"),
        "max_batch_size 8, batch_timeout 5 ms, raw bodies", ("python", "{servers}/litserve_server.py"),
    ),
    Peer(
        "mlserver", "MLServer", ("mlserver==1.7.1", "uvloop==0.21.0"), open_inference("/v2/models/embed/infer"),
        "max_batch_size 8, max_batch_time 5 ms, base64 in v2 JSON", ("python", "{servers}/mlserver_server.py"),
    ),
    Peer(
        "bentoml", "BentoML", ("bentoml==1.4.40",), multipart("/embed", "images"),
        "batchable, max_batch_size 8, its adaptive window, multipart",
        ("bentoml", "serve", "bentoml_server:Embed", "--host", "127.0.0.1", "--port", "{port}"),
    ),
)  # fmt: skip

# Peers that one would look for here, and why they are not.
ABSENT = {
    "Infinity": "not measured: it takes images for CLIP-like torch models alone, and no ONNX file of another network",
    "Ray Serve": "not measured: BentoML stands for the servers that hand requests to replicas",
}


@dataclass(frozen=True)
class Layout:
    """`workers` processes with sessions of `threads` threads each."""

    workers: int
    threads: int

    def __str__(self) -> str:
        return f"{self.workers} x {self.threads} thread" + ("s" if self.threads > 1 else "")


def layouts(cores: int) -> list[Layout]:
    """One session on all cores, and a worker with one thread for each core."""
    return [Layout(1, cores)] + ([Layout(cores, 1)] if cores > 1 else [])


def install(peer: Peer, environments: Path, *, progress: Callable[[str], None] = print) -> Path:
    """The folder of programs of the peer's environment, made where it is not there yet or for other versions.

    ServerFailed with pip's reason.
    """
    folder, wanted = environments / peer.name, "\n".join([*peer.packages, *_COMMON])
    made_of = folder / "made-of.txt"
    if not made_of.exists() or made_of.read_text() != wanted:
        progress(f"installing {peer.version} ...")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)], peer)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run([*pip, *peer.packages, *_COMMON], peer)
        made_of.write_text(wanted)
    return folder / "bin"


def _run(command: Sequence[str], peer: Peer) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ServerFailed(f"{peer.version} not installed: {e}") from e
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise ServerFailed(f"{peer.version} not installed: {errors[0] if errors else 'pip said nothing'}")


def launch(peer: Peer, programs: Path, bundle: Bundle, layout: Layout, precision: Precision) -> Launch:
    """The peer serving the bundle's encoder, the very file that ours runs."""
    manifest = bundle.manifest
    chosen = {
        "model": str(bundle.graph_file("encoder", precision).resolve()), "output": manifest.pooling,
        "resize": manifest.preprocess.resize, "crop": manifest.preprocess.crop,
        "num_patches": manifest.model.num_patches, "workers": layout.workers, "threads": layout.threads,
    }  # fmt: skip
    settings = json.dumps(chosen)[:-1] + ', "port": {port}}'
    program, *words = [word.replace("{servers}", str(_SERVERS)) for word in peer.command]
    return Launch(
        peer.label, [str(programs / program), *words], peer.form, environment=_environment(programs),
        files={"peer.json": settings},
    )  # fmt: skip


def _environment(programs: Path) -> Mapping[str, str]:
    """No telemetry; the servers' files to import, and nothing of ours."""
    return {
        "PEER": "{folder}/peer.json", "PYTHONPATH": str(_SERVERS), "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{programs}:/usr/bin:/bin", "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": "{folder}/bentoml",
    }  # fmt: skip
