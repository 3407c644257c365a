"""POST /search against exact neighbours by numpy: what is found, what is refused, and an index that changes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import HnswSq, IvfPq, IvfSq
from moto.server import ThreadedMotoServer
from numpy.typing import NDArray

from bundle.errors import Unavailable
from bundle.store import Bundle
from bundle.vectors import INDEX_TABLE, VECTORS_KEY
from service import search
from service.index import Index, open_index, prove_index
from service.metrics import Metrics
from service.options import SearchQuery
from service.settings import Settings, SettingsError
from tests.service.helpers import DIM, Served, eventually, make_bundle, photo, serving_fake
from tests.service.indexes import add_rows, embed, rows, spec_of, write_index

NUM_ROWS = 40
LABELS = ("cat", "dog, large", "it's")


def columns(num_rows: int) -> dict[str, Any]:
    return {
        "label": [LABELS[i % 3] for i in range(num_rows)],
        "price": [None if i % 10 == 9 else i / 2 for i in range(num_rows)],
        "n": list(range(num_rows)),
        "sold": [i % 2 == 0 for i in range(num_rows)],
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("search") / "bundle")


@pytest.fixture(scope="module")
def vectors(bundle: Bundle) -> NDArray[np.float32]:
    """[NUM_ROWS, D] of photos 0, 1, ..."""
    return embed(bundle, [photo(i) for i in range(NUM_ROWS)])


@pytest.fixture
def index(tmp_path: Path, bundle: Bundle, vectors: NDArray[np.float32]) -> Path:
    return write_index(tmp_path / "index", rows(vectors, spec_of(bundle), columns(NUM_ROWS)))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, vectors: NDArray[np.float32]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("index")
    write_index(folder / "index", rows(vectors, spec_of(bundle), columns(NUM_ROWS)))
    with serving_fake(bundle, search_index=str(folder / "index"), thumbnails=folder) as (served, _):
        yield served


def find(served: Served, image: bytes, **params: Any) -> list[dict[str, Any]]:
    answer = served.http.post("/search", content=image, params=params)
    assert answer.status_code == 200, answer.text
    [found] = answer.json()["results"]
    rows: list[dict[str, Any]] = found
    return rows


def refused(served: Served, status: int, image: bytes = b"", **params: Any) -> dict[str, Any]:
    answer = served.http.post("/search", content=image or photo(1), params=params)
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_the_nearest_rows_come_best_first_as_numpy_finds_them(
    served: Served, bundle: Bundle, vectors: NDArray[np.float32]
) -> None:
    images = [photo(7), photo(100), photo(101)]
    answer = served.http.post("/search", files=[("file", image) for image in images], params={"k": 5})
    body = answer.json()
    assert body.keys() == {"model", "digest", "num_rows", "results", "cached"}
    assert (body["model"], body["digest"], body["num_rows"]) == ("fake", bundle.manifest.digest, NUM_ROWS)
    assert body["cached"] == [False] * 3
    scores = embed(bundle, images) @ vectors.T  # [3, NUM_ROWS]
    for found, row in zip(body["results"], scores, strict=True):
        best = np.argsort(-row)[:5]
        assert [each["path"] for each in found] == [f"{i:03}.png" for i in best]
        np.testing.assert_allclose([each["score"] for each in found], row[best], atol=2e-6)
    first = body["results"][0][0]
    assert first == {
        "path": "007.png", "sha256": f"{7:064x}", "score": 1.0, "thumbnail": "thumbnails/007.png",
        "columns": {"label": "dog, large", "price": 3.5, "n": 7, "sold": False},
    }  # fmt: skip


def test_ten_rows_come_unless_told_otherwise_and_never_more_than_there_are(served: Served) -> None:
    assert len(find(served, photo(1))) == 10
    assert len(find(served, photo(1), k=1)) == 1
    assert len(find(served, photo(1), k=100)) == NUM_ROWS
    for k in ("0", "101", "-1", "1.5", "x"):
        assert refused(served, 422, k=k)["param"] == "k"


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        (["label=cat"], lambda i: i % 3 == 0),
        (["label=cat,it's"], lambda i: i % 3 != 1),
        (["label=dog\\, large"], lambda i: i % 3 == 1),
        (["label!=cat", "sold=true"], lambda i: i % 3 and i % 2 == 0),
        (["price>=10"], lambda i: i % 10 != 9 and i >= 20),
        (["price!=10"], lambda i: i % 10 != 9 and i != 20),
        (["n>5", "n<=8"], lambda i: 5 < i <= 8),
        (["path=003.png"], lambda i: i == 3),
        ([f"sha256!={1:064x}"], lambda i: i != 1),
        (["label=nothing"], lambda _: False),
    ],
)
def test_filters_come_before_the_search(served: Served, filters: list[str], passes: Any) -> None:
    found = find(served, photo(4), k=100, filter=filters)
    assert {row["columns"]["n"] for row in found} == {i for i in range(NUM_ROWS) if passes(i)}
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)


def test_filters_that_do_not_fit_are_refused_before_the_image_is_looked_at(served: Served) -> None:
    error = refused(served, 422, image=b"no image", filter="color=red")
    assert error["param"] == "filter"
    assert "there are path, sha256, label, price, n, sold" in error["message"]
    assert refused(served, 422, filter=["n=1"] * 17)["param"] == "filter"
    assert refused(served, 422, filter="n=2.5")["message"] == "filter: n takes a whole number of 64 bits, got '2.5'"
    assert refused(served, 422, where="n=1")["message"] == "where: unknown parameter"
    answer = served.http.post("/search?k=1&k=2", content=photo(1))
    assert answer.json()["error"]["message"] == "k: given more than once"


def test_the_caches_know_the_query_and_a_request_may_forbid_them(served: Served) -> None:
    image = photo(300)
    answers = [served.http.post("/search", content=image) for _ in range(2)]
    assert [answer.json()["cached"] for answer in answers] == [[False], [True]]
    assert answers[0].json()["results"] == answers[1].json()["results"]
    assert "search;dur=" in answers[1].headers["server-timing"]
    assert "infer" not in answers[1].headers["server-timing"]
    assert served.embed(image).json()["cached"] == [True]  # the vector is the same
    private = served.http.post("/search", content=photo(301), headers={"cache-control": "no-store"})
    assert private.headers["cache-control"] == "no-store"
    assert served.http.post("/search", content=photo(301)).json()["cached"] == [False]


def test_bad_images_and_bodies_are_told_as_everywhere(served: Served) -> None:
    assert refused(served, 415, image=b"text")["type"] == "unsupported_media"
    answer = served.http.post("/search", json={"images": []})
    assert answer.status_code == 422
    body = {"images": ["aGVsbG8=", "!"]}
    assert served.http.post("/search", json=body).json()["error"]["param"] == "images[1]"


def test_info_tells_what_can_be_asked(served: Served, bundle: Bundle) -> None:
    assert served.http.get("/info").json()["search"] == {
        "num_rows": NUM_ROWS,
        "columns": [
            {"name": "path", "type": "string"}, {"name": "sha256", "type": "string"},
            {"name": "label", "type": "string"}, {"name": "price", "type": "double"}, {"name": "n", "type": "int64"},
            {"name": "sold", "type": "bool"},
        ],
        "vectors": {
            "bundle": "fake", "digest": bundle.manifest.digest, "precision": "fp32", "pooling": "mean", "keep": 1.0,
        },
        "thumbnails": True,
    }  # fmt: skip


def test_a_service_without_an_index_says_so_and_reads_no_lancedb(bundle: Bundle) -> None:
    with serving_fake(bundle) as (served, _):
        error = refused(served, 404)
        assert served.http.get("/info").json()["search"] is None
        assert "maeve_search_up 0.0" in served.http.get("/metrics").text
    assert error["type"] == "not_offered"
    assert "MAEVE_SEARCH_INDEX" in error["message"]


def test_pooling_and_keep_are_those_of_the_index(tmp_path: Path, bundle: Bundle) -> None:
    with serving_fake(bundle) as (served, _):
        asked = served.embed(photo(3), pooling="cls", keep=0.5).json()["embeddings"]
    stored = np.array(asked, np.float32)
    index = write_index(tmp_path / "i", rows(stored, spec_of(bundle, pooling="cls", keep=0.5, precision="int8")))
    with serving_fake(bundle, search_index=str(index)) as (served, _):
        [found] = find(served, photo(3))
        assert served.http.get("/info").json()["search"]["vectors"]["precision"] == "int8"
    assert found["score"] == 1.0
    assert (found["columns"], found["thumbnail"]) == ({}, None)


def test_scores_are_cosines_of_vectors_of_any_length_and_equals_come_by_path(
    tmp_path: Path, bundle: Bundle, vectors: NDArray[np.float32]
) -> None:
    stored = np.concatenate([vectors[:5] * 7, vectors[:5], -vectors[:1], np.zeros((1, DIM), np.float32)])
    table = rows(stored, spec_of(bundle, normalize=False)).take(np.random.default_rng(0).permutation(len(stored)))
    index = write_index(tmp_path / "i", table)
    with serving_fake(bundle, search_index=str(index)) as (served, _):
        found = find(served, photo(0), k=100)
    best = [(row["path"], row["score"]) for row in found]
    assert best[:2] == [("000.png", 1.0), ("005.png", 1.0)]
    assert ("010.png", -1.0) in best
    pairs = [path for path, _ in best if path not in ("010.png", "011.png")]
    assert [(int(b[:3]) - int(a[:3])) for a, b in zip(pairs[::2], pairs[1::2], strict=True)] == [5] * 5


def test_an_approximate_index_is_asked_by_its_own_distance_and_scored_exactly(
    tmp_path: Path, bundle: Bundle, vectors: NDArray[np.float32]
) -> None:
    rng = np.random.default_rng(0)
    clustered = vectors[rng.integers(20, size=2000)] + 0.1 * rng.standard_normal((2000, DIM))
    stored = (clustered / np.linalg.norm(clustered, axis=1, keepdims=True)).astype(np.float32)
    table = rows(stored, spec_of(bundle), {"rare": [i % 200 == 0 for i in range(2000)]})
    fine = {"num_sub_vectors": DIM // 2}
    for kind, distance, options in (
        (IvfPq, "dot", fine), (HnswSq, "l2", {}), (IvfSq, "cosine", {}),
    ):  # fmt: skip
        index = write_index(tmp_path / f"{kind.__name__}-{distance}", table)
        config = kind(distance_type=distance, num_partitions=8, **options)
        lancedb.connect(index).open_table(INDEX_TABLE).create_index("vector", config=config)
        with serving_fake(bundle, search_index=str(index)) as (served, _):
            query = embed(bundle, [photo(1)])[0]
            scores = stored @ query
            found = find(served, photo(1), k=10)
            rare = find(served, photo(1), k=10, filter="rare=true")
        for row in found + rare:
            assert row["score"] == pytest.approx(scores[int(row["path"][:-4])], abs=2e-6)
        exact = {f"{i:03}.png" for i in np.argsort(-scores)[:10]}
        assert len(exact & {row["path"] for row in found}) >= 9, (kind, distance)
        assert {row["path"] for row in rare} == {f"{i:03}.png" for i in range(0, 2000, 200)}


def test_rows_that_are_added_are_found_without_a_restart(
    index: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FRESH_S", 0.05)
    with serving_fake(bundle, search_index=str(index)) as (served, _):
        assert find(served, photo(777), k=1)[0]["score"] < 0.99
        extra = {name: [values[0]] for name, values in columns(1).items()}
        add_rows(index, rows(embed(bundle, [photo(777)]), spec_of(bundle), extra, first=777))
        eventually(lambda: find(served, photo(777), k=1)[0]["path"] == "777.png")
        assert served.http.get("/info").json()["search"]["num_rows"] == NUM_ROWS + 1
        assert f"maeve_search_rows {NUM_ROWS + 1}.0" in served.http.get("/metrics").text


def test_an_index_that_is_replaced_while_it_is_searched_goes_on(
    index: Path, bundle: Bundle, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a link that is turned to another folder while requests come, and the one before deleted."""
    monkeypatch.setattr(search, "_PATIENCE_S", 0)
    link = index.with_name("link")
    link.symlink_to(index)
    with serving_fake(bundle, search_index=str(link)) as (served, _), ThreadPoolExecutor(4) as pool:
        for times in range(4):
            before, new = link.resolve(), index.with_name(f"new-{times}")
            write_index(new, rows(vectors[:-1], spec_of(bundle), columns(NUM_ROWS - 1)))
            answers = [pool.submit(find, served, photo(i), k=1) for i in range(20)]
            turned = index.with_name("turned")
            turned.symlink_to(new)
            turned.replace(link)
            shutil.rmtree(before)
            for i, answer in enumerate(answers):
                assert answer.result()[0]["path"] == f"{i:03}.png"


def test_an_index_made_anew_in_its_place_is_taken(
    index: Path, bundle: Bundle, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder itself, or a version of the table that begins anew: with fewer rows, and other columns."""
    monkeypatch.setattr(search, "_FRESH_S", 0.05)
    monkeypatch.setattr(search, "_PATIENCE_S", 0)
    with serving_fake(bundle, search_index=str(index)) as (served, _):
        write_index(index, rows(vectors[:5], spec_of(bundle), {"new": list(range(5))}))
        eventually(lambda: len(find(served, photo(1), k=100)) == 5)
        assert find(served, photo(1), filter="new=3")[0]["columns"] == {"new": 3}
        new = write_index(index.with_name("new"), rows(vectors[:7], spec_of(bundle)))
        index.rename(index.with_name("old"))
        new.rename(index)
        shutil.rmtree(index.with_name("old"))
        eventually(lambda: len(find(served, photo(1), k=100)) == 7)


def test_an_approximate_index_is_searched_until_the_one_made_anew_is_sorted_too(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.index.APPROXIMATE_FROM", 280)
    monkeypatch.setattr(search, "_FRESH_S", 0.05)
    caplog.set_level("INFO", "service.search")
    stored = np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32)
    folder = write_index(tmp_path / "i", rows(stored, spec_of(bundle)))

    def sort() -> None:
        config = IvfSq(distance_type="cosine", num_partitions=1)
        lancedb.connect(folder).open_table(INDEX_TABLE).create_index("vector", config=config)

    sort()
    with serving_fake(bundle, search_index=str(folder)) as (service, _):

        def num_rows() -> int:
            return int(service.http.get("/info").json()["search"]["num_rows"])

        assert len(find(service, photo(1), k=1)) == 1
        write_index(folder, rows(stored[:290], spec_of(bundle)))
        eventually(lambda: "not searched until bulk.index has sorted it" in caplog.text)
        assert num_rows() == 300
        sort()
        eventually(lambda: num_rows() == 290)
        write_index(folder, rows(stored[:100], spec_of(bundle)))  # so few are never sorted
        eventually(lambda: num_rows() == 100)


async def test_a_search_that_fails_ends_those_beside_it(
    index: Path, bundle: Bundle, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else they would go on when their places are free again."""
    running, begun = 0, asyncio.Event()

    async def nearest(_: Index, vector: NDArray[np.float32], *__: Any) -> Any:
        nonlocal running
        if (vector == vectors[1]).all():
            await begun.wait()
            raise Unavailable("the store is gone")
        running += 1
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1

    monkeypatch.setattr(search, "usable_cores", lambda: 2)
    held = search.Search(str(index), Settings(), Metrics(), lambda: bundle.manifest)
    await held.prove(bundle.manifest)
    asked = await held.ask(SearchQuery(), bundle.manifest)
    monkeypatch.setattr(Index, "nearest", nearest)
    with pytest.raises(Unavailable, match="the store is gone"):
        await held.nearest(asked, vectors[:2])
    assert (running, held.pending) == (0, 0)


def test_an_index_that_is_gone_is_503_for_searches_alone_until_it_is_back(index: Path, bundle: Bundle) -> None:
    with serving_fake(bundle, search_index=str(index)) as (served, _):
        index.rename(index.with_name("away"))
        error = refused(served, 503)
        assert error["type"] == "unavailable"
        assert str(index) in error["message"]
        assert served.embed(photo(1)).status_code == 200
        assert served.http.get("/readyz").status_code == 200
        assert served.http.get("/info").json()["search"]["num_rows"] == NUM_ROWS
        assert "maeve_search_up 0.0" in served.http.get("/metrics").text
        index.with_name("away").rename(index)
        eventually(lambda: served.http.post("/search", content=photo(1)).status_code == 200)
        eventually(lambda: "maeve_search_up 1.0" in served.http.get("/metrics").text)


@pytest.mark.parametrize("harm", ["cut", "noise", "manifests"])
def test_a_damaged_index_is_503(index: Path, bundle: Bundle, harm: str) -> None:
    with serving_fake(bundle, search_index=str(index)) as (served, _):
        files = [path for path in index.rglob("*") if path.is_file()]
        if harm == "manifests":
            files = [path for path in files if path.suffix == ".manifest"]
        for path in files:
            size = path.stat().st_size
            path.write_bytes(path.read_bytes()[: size // 2] if harm == "cut" else b"\x5a" * size)
        statuses = {served.http.post("/search", content=photo(i)).status_code for i in range(3)}
        assert statuses <= ({200} if harm == "manifests" else {200, 503})  # what was read already may still be there
        assert served.embed(photo(1)).status_code == 200


async def test_what_is_no_index_of_ours_is_refused_with_what_to_do(
    tmp_path: Path, bundle: Bundle, vectors: NDArray[np.float32]
) -> None:
    table = rows(vectors, spec_of(bundle))
    other = make_bundle(tmp_path / "other", name="other")
    cases: dict[str, tuple[pa.Table | None, str]] = {
        "nowhere": (None, "no such folder; python -m bulk.index makes one"),
        "foreign": (table.replace_schema_metadata(None), "does not say how its vectors were made"),
        "mangled": (table.replace_schema_metadata({VECTORS_KEY: b"{}"}), "does not say how its vectors were made"),
        "narrow": (rows(vectors[:, :16], spec_of(bundle)), f"lacks path, sha256 or vectors of {DIM} float32"),
        "pathless": (table.drop_columns(["path"]), "lacks path, sha256 or vectors"),
        "others": (rows(vectors, spec_of(other)), "the bundle other"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            write_index(tmp_path / name, content)
        with pytest.raises(Unavailable, match=message):
            await prove_index(str(tmp_path / name), bundle.manifest)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(Unavailable):
        await open_index(str(tmp_path / "circle"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unavailable, match=r"there is no index at .*empty; python -m bulk.index makes one"):
        await open_index(str(tmp_path / "empty"))
    write_index(tmp_path / "parts" / "_index", table)
    with pytest.raises(Unavailable, match=r"did you mean .*parts/_index"):
        await open_index(str(tmp_path / "parts"))


async def test_columns_of_other_types_and_odd_names_do_no_harm(tmp_path: Path, bundle: Bundle) -> None:
    stored = embed(bundle, [photo(1)])
    extra = {
        "list": [[1, 2]],
        "day": pa.array([1], pa.date32()),
        "a`b": [1],
        'c"d': [2],
        "select": [3],
        "漢 字": [None],
    }
    extra["漢 字"] = pa.array([None], pa.string())
    index = await prove_index(str(write_index(tmp_path / "i", rows(stored, spec_of(bundle), extra))), bundle.manifest)
    assert list(index.columns) == ["path", "sha256", 'c"d', "select", "漢 字"]
    [row] = await index.nearest(stored[0], 1, None)
    assert row.columns == {'c"d': 2, "select": 3, "漢 字": None}


async def test_an_empty_index_finds_nothing(tmp_path: Path, bundle: Bundle, vectors: NDArray[np.float32]) -> None:
    folder = write_index(tmp_path / "i", rows(vectors, spec_of(bundle)).slice(0, 0))
    index = await prove_index(str(folder), bundle.manifest)
    assert (index.num_rows, await index.nearest(vectors[0], 5, None)) == (0, [])


def test_locations_that_are_no_folder_and_no_object_store_are_refused() -> None:
    for location in ("db://mine", "DB://mine", "https://example.org/index"):
        with pytest.raises(ValueError, match="must be a folder, or a URL such as s3://bucket/index"):
            Settings(search_index=location)


def test_an_index_in_an_object_store_is_searched(
    bundle: Bundle, vectors: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that speaks S3 on loopback, named as every program of AWS names one."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        assert httpx.put(f"{endpoint}/photos", trust_env=False).is_success
        options = {"aws_endpoint": endpoint, "allow_http": "true"}
        database = lancedb.connect("s3://photos/index", storage_options=options)
        table = database.create_table(INDEX_TABLE, rows(vectors, spec_of(bundle), columns(NUM_ROWS)))
        monkeypatch.setattr(search, "_FRESH_S", 0.05)
        with serving_fake(bundle, search_index="s3://photos/index") as (served, _):
            assert find(served, photo(3), k=1, filter="n<5")[0]["path"] == "003.png"
            table.delete("n < 5")
            eventually(lambda: find(served, photo(3), k=1)[0]["path"] != "003.png")
            server.stop()
            assert served.embed(photo(3)).status_code == 200
    finally:
        server.stop()


async def test_a_missing_lancedb_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lancedb", None)
    with pytest.raises(SettingsError, match=r"pip install -e '\.\[search\]'"):
        await open_index(str(tmp_path))


def test_a_request_ends_at_its_deadline_and_too_many_are_refused(
    index: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches that wait for ever, as those of an object store that does not answer."""
    real, held = Index.nearest, asyncio.Event()

    async def nearest(self: Index, *arguments: Any) -> Any:
        await held.wait()
        return await real(self, *arguments)

    with serving_fake(bundle, search_index=str(index), max_queue=8, max_images=8) as (served, _):
        monkeypatch.setattr(Index, "nearest", nearest)
        with ThreadPoolExecutor(2) as pool:
            waiting = pool.submit(
                served.http.post, "/search", files=[("file", photo(i)) for i in range(8)],
                headers={"x-request-timeout-ms": "3000"},
            )  # fmt: skip
            eventually(lambda: "maeve_searches_pending 8.0" in served.http.get("/metrics").text)
            answer = served.http.post("/search", content=photo(9))
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert served.embed(photo(9)).status_code == 200
            late = waiting.result()
        assert late.status_code == 504
        assert late.json()["error"]["type"] == "deadline_exceeded"
        assert "maeve_searches_pending 0.0" in served.http.get("/metrics").text
        monkeypatch.undo()
        assert len(find(served, photo(9))) == 10


def test_keys_and_rates_guard_it(index: Path, bundle: Bundle) -> None:
    with serving_fake(bundle, search_index=str(index), api_key="k", rate_limit=0.5) as (served, _):
        assert served.http.post("/search", content=photo(1)).status_code == 401
        key = {"x-api-key": "k"}
        statuses = [served.http.post("/search", content=photo(1), headers=key).status_code for _ in range(2)]
    assert statuses == [200, 429]
