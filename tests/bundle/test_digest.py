from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bundle.digest import canonical_json, file_sha256, manifest_digest


def test_canonical_json_has_one_spelling() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"ä","b":[1,2.5,null]}'.encode()
    assert canonical_json({"x": 1, "y": 2}) == canonical_json({"y": 2, "x": 1})


def test_canonical_json_refuses_what_json_lacks() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})


def test_file_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(content)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_the_digest_stands_for_everything_but_itself_and_the_time() -> None:
    manifest = {"name": "a", "files": {"x": "1"}, "digest": "d", "created_at": "2026-01-01"}
    digest = manifest_digest(manifest)
    assert manifest_digest({**manifest, "digest": "e", "created_at": "2027-01-01"}) == digest
    assert manifest_digest({**manifest, "name": "b"}) != digest
    assert manifest_digest({**manifest, "files": {"x": "2"}}) != digest
    assert manifest_digest({"name": "a", "files": {"x": "1"}}) == digest
