"""64 bytes each: what goes in comes out, and what nobody says is refused."""

from __future__ import annotations

import socket
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.errors import DeadlineExceeded, InferenceError, OutOfMemory, TooLarge, Unavailable
from service.ipc.framing import ProtocolError, frame, receive, unframe
from service.ipc.records import (
    SIZE,
    Attach,
    Cancel,
    Ending,
    Reply,
    Submit,
    error_code,
    error_from,
    unpack_attach,
    unpack_order,
    unpack_reply,
)
from service.programs import FeatureName, Program

SLOTS, JOBS = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
SECONDS = st.floats(0, 1e9)
FEATURES = [
    tuple(name for i, name in enumerate(get_args(FeatureName)) if bits >> i & 1) for bits in range(1, 16)
]  # fmt: skip
PROGRAMS = st.one_of(
    st.builds(Program, st.just("embed"), SLOTS, st.sampled_from(FEATURES)),
    st.builds(Program, st.sampled_from(["classify", "reconstruct"]), SLOTS),
)


@given(st.one_of(st.builds(Submit, SLOTS, JOBS, PROGRAMS, st.floats(allow_nan=False)), st.builds(Cancel, SLOTS, JOBS)))
def test_orders_come_out_as_they_went_in(order: Submit | Cancel) -> None:
    assert len(order.pack()) == SIZE
    assert unpack_order(order.pack()) == order


@given(
    st.builds(Reply, st.sampled_from(get_args(Ending)), SLOTS, JOBS, st.integers(0, 4), SLOTS, SLOTS, SECONDS, SECONDS)
)
def test_replies_come_out_as_they_went_in(reply: Reply) -> None:
    assert len(reply.pack()) == SIZE
    assert unpack_reply(reply.pack()) == reply


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_any_64_bytes_are_a_record_or_an_error(record: bytes) -> None:
    for unpack in (unpack_order, unpack_reply, unpack_attach):
        try:
            unpack(record)
        except ProtocolError:
            continue


def test_attach_is_of_one_version() -> None:
    record = Attach(3, 4096).pack()
    assert unpack_attach(record) == Attach(3, 4096)
    with pytest.raises(ProtocolError, match="version 1"):
        unpack_attach(record[:1] + b"\x02" + record[2:])


@pytest.mark.parametrize("kind", [0, 1, 7, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    record = bytes([kind]) + bytes(SIZE - 1)
    with pytest.raises(ProtocolError):
        unpack_order(record)
    with pytest.raises(ProtocolError):
        unpack_reply(record)


@pytest.mark.parametrize("error", [InferenceError("a"), OutOfMemory("b"), Unavailable("c"), DeadlineExceeded("d")])
def test_errors_keep_their_class(error: Exception) -> None:
    again = error_from(error_code(error), str(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_an_error_without_a_code_becomes_the_nearest() -> None:
    assert error_code(ZeroDivisionError()) == error_code(InferenceError("x"))
    assert type(error_from(error_code(TooLarge("x")), "x")).__name__ == "InvalidInput"


def test_messages_are_cut_where_they_end() -> None:
    both = frame({"a": 1}) + frame({"b": "ü"})
    first = unframe(both)
    assert first is not None
    message, taken = first
    assert message == {"a": 1}
    assert unframe(both[taken:]) == ({"b": "ü"}, len(both) - taken)
    assert all(unframe(both[:end]) is None for end in range(taken))


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xff", b"\x02\0\0\0[]", b"\x02\0\0\0{x", b"\x09\0\0\0{}"])
def test_what_is_no_message_is_an_error(sent: bytes) -> None:
    mine, its = socket.socketpair()
    with mine, its:
        its.sendall(sent)
        its.shutdown(socket.SHUT_WR)
        with pytest.raises(ProtocolError):
            receive(mine)
