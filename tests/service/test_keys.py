"""API keys, their rates, origins: what opens, what is refused, and how the settings complain."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from bundle.store import Bundle
from service.errors import RateLimited
from service.keys import Key, Keyring, parse_keys
from service.limits import RateLimits
from service.settings import SettingsError, read_settings
from tests.service.helpers import photo, serving_fake

ROOT = Path(__file__).parents[2]
A, B = sha256(b"key of a").hexdigest(), sha256(b"key of b").hexdigest()


def test_each_key_opens_and_is_known_by_its_name() -> None:
    ring = Keyring(parse_keys(f"a:{A}, b:{B.upper()}:2.5"))
    assert ring.find(b"key of a") == Key("a", sha256(b"key of a").digest())
    assert ring.find(b"key of b") == Key("b", sha256(b"key of b").digest(), 2.5)
    assert ring.find(A.encode()) is None  # the hash is no key
    assert ring.find(b"") is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (f"a:{A},a:{B}", "two keys are called a"),
        ("a:secret", "the hash of a must be 64 hexadecimal digits; python -m service.keys a makes a key"),
        (f"a:{A},b", "the entry of b must be b:sha256 or b:sha256:rate"),
        (f"a:{A}:1:2", "the entry of a must be a:sha256 or a:sha256:rate"),
        (f"a:{A},", "entry 2 has no name of up to 64 letters, digits, dots, dashes or underscores"),
        (f"a b:{A}", "entry 1 has no name"),
        (f"a:{A}:0", "the rate of a must be a positive number of requests per second"),
        (f"a:{A}:inf", "the rate of a must be a positive number"),
        (f"a:{A}:fast", "the rate of a must be a positive number"),
    ],
)
def test_a_bad_entry_is_named_and_not_repeated(value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(["--api-keys", value])
    assert str(caught.value).startswith(f"--api-keys: {message}")
    assert "secret" not in str(caught.value)


def test_settings_of_keys_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="rate_limit is per API key: set api_keys or MAEVE_API_KEY too"):
        read_settings(["--rate-limit", "5"])
    monkeypatch.setenv("MAEVE_API_KEY", "hush")
    keys = read_settings(["--rate-limit", "5", "--api-keys", f"a:{A}"]).keys()
    assert [key.name for key in keys] == ["default", "a"]
    with pytest.raises(SettingsError, match="api_keys: default is the name of MAEVE_API_KEY"):
        read_settings(["--api-keys", f"default:{A}"])


def make_key(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.keys", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_makes_a_key_that_its_entry_opens() -> None:
    first, second = make_key("bob", "--rate", "3"), make_key("bob")
    key, entry = (line.split()[-1] for line in first.stdout.splitlines())
    found = Keyring(parse_keys(entry)).find(key.encode())
    assert found is not None
    assert (found.name, found.rate) == ("bob", 3.0)
    assert key.startswith("maeve_")
    assert len(key) == len("maeve_") + 43  # 32 bytes in base64
    assert key not in second.stdout
    refused = make_key("bob:x")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: ")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(limits: RateLimits, key: Key) -> int:
    """How many requests pass before the first is refused."""
    for count in range(1000):
        try:
            limits.take(key)
        except RateLimited:
            return count
    raise AssertionError("never refused")


def test_a_key_has_two_seconds_of_requests_at_once_and_then_its_rate() -> None:
    clock = Clock()
    a, b, free = Key("a", b""), Key("b", b"", 0.1), Key("c", b"")
    limits = RateLimits([a, b], 5, clock=clock)
    assert taken(limits, a) == 10
    assert taken(limits, b) == 1  # never less than one
    clock.now += 1
    assert taken(limits, a) == 5
    with pytest.raises(RateLimited, match=r"the key b may send 0\.1 requests a second here") as caught:
        limits.take(b)
    assert caught.value.retry_after_s == pytest.approx(9)
    clock.now += 9
    limits.take(b)
    clock.now += 1000
    assert taken(limits, a) == 10
    for _ in range(100):
        RateLimits([free], None).take(free)


def test_each_of_several_processes_grants_its_share() -> None:
    key = Key("a", b"")
    assert [taken(RateLimits([key], 8, share=1 / n, clock=Clock()), key) for n in (1, 2, 4)] == [16, 8, 4]


def test_a_key_that_sends_too_much_is_told_when_to_come_back(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_keys=f"a:{A}:0.5,b:{B}", rate_limit=100) as (served, _):

        def ask(key: str) -> int:
            answer = served.http.post("/embed", content=photo(1), headers={"x-api-key": key})
            if answer.status_code == 429:
                assert answer.json()["error"]["type"] == "rate_limited"
                assert answer.headers["retry-after"] == "2"
            return answer.status_code

        assert [ask(key) for key in ("key of a", "key of a", "key of b", "nobody's")] == [200, 429, 200, 401]
        assert served.http.get("/livez").status_code == 200


PAGE = "https://app.example.org"


def test_pages_of_the_origins_named_may_call_and_read_errors_too(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="hush", cors_origins=f"{PAGE},http://localhost:3000") as (served, _):
        asked = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
        preflight = served.http.options("/embed", headers=asked)  # without the key, as browsers do
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert "X-API-Key" in preflight.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in preflight.headers

        octets = {"origin": PAGE, "x-api-key": "hush", "accept": "application/octet-stream"}
        answer = served.http.post("/embed", content=photo(1), headers=octets)
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        ours = {name for name in answer.headers if name.startswith("maeve-") or name == "server-timing"}
        assert len(ours) == 7
        assert ours <= set(exposed)

        refused = served.http.post("/embed", content=photo(1), headers={"origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)
        assert refused.headers["vary"] == "Origin"

        other = asked | {"origin": "https://evil.example.org"}
        answer = served.http.options("/embed", headers=other)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "origin")
        assert "access-control-allow-origin" not in answer.headers


def test_any_origin_or_none(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, cors_origins="*") as (served, _):
        assert served.http.get("/livez", headers={"origin": PAGE}).headers["access-control-allow-origin"] == "*"
    with serving_fake(fake_bundle) as (served, _):
        answer = served.http.get("/livez", headers={"origin": PAGE})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("value", ["app.example.org", "https://a.org/", "https://a.org,*", "null", "", "ftp://a.org"])
def test_a_bad_origin_is_named(value: str) -> None:
    with pytest.raises(SettingsError, match=r"--cors-origins: '.*' is no origin such as https://app.example.org"):
        read_settings(["--cors-origins", value])


def test_the_pages_may_not_be_framed_and_nothing_is_guessed_about_answers(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        for path in ("/", "/docs"):
            headers = served.http.get(path).headers
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-opener-policy"] == "same-origin"
            assert "camera=()" in headers["permissions-policy"]
        for path in ("/", "/livez", "/nowhere"):
            assert served.http.get(path).headers["x-content-type-options"] == "nosniff"


def test_errors_quote_no_more_than_a_line_of_what_was_sent(fake_bundle: Bundle) -> None:
    name = "x" * 3000
    with serving_fake(fake_bundle) as (served, _):
        answer = served.http.post("/embed", params={name: "1"}, content=photo(1))
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (422, name[:99] + "…")
        assert error["message"] == name[:499] + "…"


def test_what_a_key_refuses_is_counted_for_its_route(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="hush") as (served, _):
        assert served.embed(photo(1)).status_code == 401
        metrics = served.http.get("/metrics").text
    assert 'maeve_requests_total{route="/embed",status="401"} 1.0' in metrics
