"""Runs a command for as long as standard input stays open: ``python supervise.py command argument...``.

The tests hold the other end of the pipe. However they come to their end, the kernel closes it and the command is killed:
no daemon outlives the process that asked for it. The first line of standard output is the command's process id.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading


def main() -> int:
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    print(child.pid, flush=True)
    threading.Thread(target=_kill_at_end_of_input, args=(child,), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches the whole group; the pipe says when it is over
        return child.wait()
    return child.wait()


def _kill_at_end_of_input(child: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    child.kill()


if __name__ == "__main__":
    sys.exit(main())
