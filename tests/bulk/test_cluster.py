"""What a cluster's workers are told of this process."""

from __future__ import annotations

from bulk.cluster import access


def test_workers_are_let_into_stores_as_this_process_is() -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "GOOGLE_APPLICATION_CREDENTIALS": "/keys.json", "GS_NO_SIGN_REQUEST": "1",
    }  # fmt: skip
    assert access(keys | {"PATH": "/bin", "HOME": "/root", "OPENAWS_KEY": "c"}) == keys
