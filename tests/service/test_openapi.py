"""Schemathesis, which makes requests from the document alone: good ones, and ones that break it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bundle.store import Bundle
from tests.service.helpers import photo, serving_fake
from tests.service.indexes import embed, rows, spec_of, write_index

# Which of the inputs of a model go together, and which patches and columns there are, no document can tell.
# And 413 refuses as well as the statuses that a bad request may get by default.
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 429, "5xx"]

[[operations]]
include-path = ["/reconstruct", "/search", "/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"]
checks.positive_data_acceptance.enabled = false
"""


def test_every_answer_is_one_that_the_document_tells(fake_bundle: Bundle, tmp_path: Path) -> None:
    """OPENAPI_EXAMPLES=1000 in the environment asks for more of each route than 30."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    examples = os.environ.get("OPENAPI_EXAMPLES", "30")
    index = write_index(tmp_path / "index", rows(embed(fake_bundle, [photo(1)]), spec_of(fake_bundle), {"n": [1]}))
    with serving_fake(fake_bundle, search_index=str(index), thumbnails=tmp_path) as (served, _):
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run",
            f"{served.url}/openapi.json", "--max-examples", examples, "--workers", "1", "--no-color", "--seed", "1",
        ]  # fmt: skip
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "SCHEMATHESIS_HOOKS": "tests.service.openapi_hooks"}
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600)
        assert served.http.get("/livez").status_code == 200
    assert run.returncode == 0, run.stdout + run.stderr
    assert "22 selected / 22 total" in run.stdout
