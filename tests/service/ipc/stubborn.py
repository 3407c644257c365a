"""Started by a Keeper in tests: `python -m tests.service.ipc.stubborn NAME FD` does as its first message says."""

from __future__ import annotations

import os
import socket
import sys
import time

from service.ipc.child import BEAT_S
from service.ipc.framing import frame, receive

if __name__ == "__main__":
    line = socket.socket(fileno=int(sys.argv[2]))
    first = receive(line)
    for message in first["say"]:
        line.sendall(frame(message))
    if first["then"] == "end":
        os._exit(7)
    while first["then"] == "beat":
        line.sendall(frame({"type": "beat", "stalled_s": 0.0}))
        time.sleep(BEAT_S)
    time.sleep(60)
