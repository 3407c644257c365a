"""What workers and devices tell each other about slots of shared memory, 64 bytes at a time.

    worker -> device   ATTACH once, with the memory's descriptor; then SUBMIT and CANCEL
    device -> worker   its hello once, as a message of `framing`; then one of DONE, FAILED and DROPPED for each SUBMIT

A slot belongs to the device from SUBMIT to that one answer, also when it was cancelled in between. Numbers are
little-endian; times are seconds, a deadline on CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, get_args

from bundle.errors import DeadlineExceeded, InferenceError, InvalidInput, MaeveError, OutOfMemory, Unavailable
from service.ipc.framing import ProtocolError
from service.programs import FeatureName, Operation, Program

SIZE = 64

_VERSION = 1
_ATTACH, _SUBMIT, _CANCEL, _DONE, _FAILED, _DROPPED = range(1, 7)
_TO_ATTACH = struct.Struct("<BBxxIQ48x")  # kind, version, slots, bytes of a slot
_TO_DEVICE = struct.Struct("<BBBxIQI4xd32x")  # kind, operation, features, slot, job, num_keep, deadline
_TO_WORKER = struct.Struct("<BBxxIQIIdd24x")  # kind, error, slot, job, length, cap, infer_s, decode_s

Ending = Literal["done", "failed", "dropped"]
_OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_FEATURES: tuple[FeatureName, ...] = get_args(FeatureName)  # a bit each: a program has them in this order
_ENDINGS: dict[int, Ending] = {_DONE: "done", _FAILED: "failed", _DROPPED: "dropped"}
_KINDS = {ending: kind for kind, ending in _ENDINGS.items()}
# The place in here is the code; the first stands for all that is in no other, also for what nobody foresaw.
_ERRORS: tuple[type[MaeveError], ...] = (InferenceError, OutOfMemory, Unavailable, DeadlineExceeded, InvalidInput)


@dataclass(frozen=True)
class Attach:
    num_slots: int
    slot_bytes: int

    def pack(self) -> bytes:
        return _TO_ATTACH.pack(_ATTACH, _VERSION, self.num_slots, self.slot_bytes)


@dataclass(frozen=True)
class Submit:
    """Run `program` on what slot `slot` holds. `job`: never the same twice over one connection."""

    slot: int
    job: int
    program: Program
    deadline: float

    def pack(self) -> bytes:
        features = sum(1 << _FEATURES.index(name) for name in self.program.poolings)
        operation = _OPERATIONS.index(self.program.operation)
        return _TO_DEVICE.pack(
            _SUBMIT, operation, features, self.slot, self.job, self.program.num_keep, self.deadline
        )  # fmt: skip


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the job any more. It is answered all the same, which frees its slot."""

    slot: int
    job: int

    def pack(self) -> bytes:
        return _TO_DEVICE.pack(_CANCEL, 0, 0, self.slot, self.job, 0, 0.0)


@dataclass(frozen=True)
class Reply:
    """The device has let go of the slot. `length`: values in it when done, bytes of an error's text when failed.

    `error`: a code of `error_code`. `cap`: most images per model call, as of now. `infer_s`, `decode_s`: as Done and
    Computed have them.
    """

    ending: Ending
    slot: int
    job: int
    error: int = 0
    length: int = 0
    cap: int = 0
    infer_s: float = 0.0
    decode_s: float = 0.0

    def pack(self) -> bytes:
        return _TO_WORKER.pack(
            _KINDS[self.ending], self.error, self.slot, self.job, self.length, self.cap, self.infer_s, self.decode_s
        )  # fmt: skip


def unpack_attach(record: bytes) -> Attach:
    """ProtocolError for any other record, and for one of another version."""
    if len(record) != SIZE or record[0] != _ATTACH or record[1] != _VERSION:
        raise ProtocolError(f"not an ATTACH record of version {_VERSION}")
    _, _, num_slots, slot_bytes = _TO_ATTACH.unpack(record)
    return Attach(num_slots, slot_bytes)


def unpack_order(record: bytes) -> Submit | Cancel:
    """What a worker sent. ProtocolError for what no worker says; whether the bundle has the program is left open."""
    kind, operation, features, slot, job, num_keep, deadline = _TO_DEVICE.unpack(record)
    if kind == _CANCEL:
        return Cancel(slot, job)
    if kind != _SUBMIT or operation >= len(_OPERATIONS) or features >> len(_FEATURES):
        raise ProtocolError(f"no order has kind {kind}, operation {operation} and features {features}")
    names = tuple(name for i, name in enumerate(_FEATURES) if features >> i & 1)
    return Submit(slot, job, Program(_OPERATIONS[operation], num_keep, names), deadline)


def unpack_reply(record: bytes) -> Reply:
    """What a device sent. ProtocolError for what no device says."""
    kind, error, slot, job, length, cap, infer_s, decode_s = _TO_WORKER.unpack(record)
    if kind not in _ENDINGS or error >= len(_ERRORS):
        raise ProtocolError(f"no reply has kind {kind} and error {error}")
    return Reply(_ENDINGS[kind], slot, job, error, length, cap, infer_s, decode_s)


def error_code(error: Exception) -> int:
    """The most specific code for an error."""
    for cls in type(error).__mro__:
        if cls in _ERRORS:
            return _ERRORS.index(cls)
    return 0


def error_from(code: int, text: str) -> MaeveError:
    return _ERRORS[code](text)
