"""Conditions as text, and the rows that they let through."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import BadParameter
from service.filters import MAX_VALUES, ColumnType, Condition, expression, parse_filter

COLUMNS: dict[str, ColumnType] = {
    "path": "string", "label": "string", "n": "int64", "x": "double", "ok": "bool", "a=b": "string", "a": "string",
    "w<": "int64", "größe in cm": "double", "select": "int64", 'q"uote\'s': "int64",
}  # fmt: skip
TEXTS = [
    "cat", "it's", '"quoted"', "back\\slash", "a, b", "\\", ",", "", " ", "naïve 漢字 🎉", "a\nb\tc", "%_*",
    "x" * 10_000, "' OR 1=1 --", "NULL", "null", "true", "1",
]  # fmt: skip
NUMBERS = [0, -1, 7, 2**63 - 1, -(2**63), 2**53 + 1, 2**53]
FLOATS = [0.0, -0.0, 1.5, -2.25, 1e300, 5e-324, math.inf, -math.inf, math.nan]


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every value of each kind in a row, and rows without any."""
    num_rows = len(TEXTS) + 2
    values: dict[str, tuple[list[Any], pa.DataType]] = {
        "label": (TEXTS, pa.string()), "n": (NUMBERS, pa.int64()), "x": (FLOATS, pa.float64()),
        "ok": ([True, False], pa.bool_()), "select": (NUMBERS, pa.int64()), "größe in cm": (FLOATS, pa.float64()),
        'q"uote\'s': (NUMBERS, pa.int64()), "a=b": (TEXTS, pa.string()), "a": (TEXTS[::-1], pa.string()),
        "w<": (NUMBERS, pa.int64()),
    }  # fmt: skip
    columns = {name: pa.array(some + [None] * (num_rows - len(some)), kind) for name, (some, kind) in values.items()}
    database = lancedb.connect(tmp_path_factory.mktemp("filters"))
    return database.create_table("t", pa.table({"row": list(range(num_rows)), **columns}))


def passing(table: Any, *filters: str) -> list[int]:
    where = expression([parse_filter(text, COLUMNS) for text in filters])
    return sorted(table.search().where(where).limit(1000).to_arrow()["row"].to_pylist())


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
@pytest.mark.parametrize("column", ["label", "a=b"])
def test_any_text_is_found_as_it_is(table: Any, column: str, text: str) -> None:
    assert passing(table, f"{column}={escaped(text)}") == [TEXTS.index(text)]
    assert passing(table, f"{column}!={escaped(text)}") == [i for i in range(len(TEXTS)) if i != TEXTS.index(text)]


@pytest.mark.parametrize("column", ["n", "select", "q\"uote's", "w<"])
@pytest.mark.parametrize("number", NUMBERS)
def test_whole_numbers_are_exact_to_the_last_of_64_bits(table: Any, column: str, number: int) -> None:
    for sign, holds in ORDER.items():
        assert passing(table, f"{column}{sign}{number}") == [i for i, n in enumerate(NUMBERS) if holds(n, number)]


ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@pytest.mark.parametrize("sign", ORDER)
def test_numbers_compare_as_numbers_do_and_nan_meets_nothing(table: Any, sign: str) -> None:
    for column in ("x", "größe in cm"):
        for number in FLOATS[:-1]:
            want = [i for i, x in enumerate(FLOATS) if not math.isnan(x) and ORDER[sign](x, number)]
            assert passing(table, f"{column}{sign}{number!r}") == want, number


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5), st.sampled_from(list(ORDER)))
def test_text_compares_as_its_utf_8_does(table: Any, texts: list[str], sign: str) -> None:
    if sign in ("=", "!="):
        want = [i for i, text in enumerate(TEXTS) if (text in texts) == (sign == "=")]
    else:
        texts = texts[:1]
        want = [i for i, text in enumerate(TEXTS) if ORDER[sign](text.encode(), texts[0].encode())]
    assert passing(table, f"label{sign}{','.join(map(escaped, texts))}") == want


def test_truths_and_several_filters_at_once(table: Any) -> None:
    assert passing(table, "ok=TRUE") == [0]
    assert passing(table, "ok!=true") == [1]
    assert passing(table, "ok=true,false") == [0, 1]
    assert passing(table, "ok=true,false", "n<0", "label!=cat") == [1]
    assert passing(table, "ok=true", "ok=false") == []


def test_a_backslash_that_escapes_nothing_stands_for_itself() -> None:
    assert parse_filter("label=C:\\photos\\a,b", COLUMNS).values == ("C:\\photos\\a", "b")
    assert parse_filter("label=a\\,b\\\\,c\\", COLUMNS).values == ("a,b\\", "c\\")


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_values_that_were_escaped_come_back(texts: list[str]) -> None:
    read = parse_filter("label=" + ",".join(map(escaped, texts)), COLUMNS)
    assert read == Condition("label", "string", "=", tuple(texts))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write it as COLUMN=VALUE, or with"),
        ("label", "write it as COLUMN=VALUE, or with"),
        ("=cat", "the index has no column ''; there are path, label, n, x, ok, a=b"),
        ("Label=cat", "the index has no column 'Label'"),
        ("label' OR 1=1 --=cat", "the index has no column \"label' OR 1\""),
        ("vector=1", "the index has no column 'vector'"),
        ("ok<true", "ok is true or false, which are not ordered"),
        ("ok=yes", "ok takes true or false, got 'yes'"),
        ("ok=", "ok takes true or false, got ''"),
        ("n=1.0", "n takes a whole number of 64 bits, got '1.0'"),
        ("n=9223372036854775808", "n takes a whole number of 64 bits"),
        ("n=-9223372036854775809", "n takes a whole number of 64 bits"),
        (f"n={'9' * 5000}", "n takes a whole number of 64 bits"),
        ("n=1_0", "n takes a whole number of 64 bits"),
        ("n=\u0661", "n takes a whole number of 64 bits"),
        ("n=1,", "n takes a whole number of 64 bits, got ''"),
        ("x=nan", "x takes a number, got 'nan'"),
        ("x>=-NaN", "x takes a number"),
        ("x=1e", "x takes a number"),
        ("x=1_0", "x takes a number"),
        ("x=0x10", "x takes a number"),
        ("n<1,2", "n< takes one value, got 2"),
        ("n==1", "n takes a whole number of 64 bits, got '=1'"),
        ("label=" + "," * MAX_VALUES, f"label is compared with {MAX_VALUES + 1} values, {MAX_VALUES} at most"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_columns_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(BadParameter) as refused:
        parse_filter(text, COLUMNS)
    assert str(refused.value).startswith(f"filter: {message}")
    assert refused.value.param == "filter"


@given(st.text(alphabet=st.sampled_from("abln=<>!,\\' \"`;x1.-e"), max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        condition = parse_filter(text, COLUMNS)
    except BadParameter:
        return
    assert text.startswith(condition.column + condition.operator)
    assert expression([condition]) is not None


def test_no_filter_is_no_expression() -> None:
    assert expression([]) is None
