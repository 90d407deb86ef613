"""Runs a command for as long as standard input stays open: ``python supervise.py command argument...``.

The tests hold the other end of the pipe. However they come to their end, the kernel closes it and the command is killed:
no daemon outlives the process that asked for it. On Linux it does not outlive this process either, should somebody kill that.
The first line of standard output is the command's process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main() -> int:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent)  # noqa: PLW1509 - there are no threads yet
    print(child.pid, flush=True)
    threading.Thread(target=_kill_at_end_of_input, args=(child,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches the whole group; the pipe says when it is over
        return child.wait()
    return child.wait()


def _end_with_parent() -> None:
    """Between fork and exec: have the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _kill_at_end_of_input(child: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    child.kill()


if __name__ == "__main__":
    sys.exit(main())
