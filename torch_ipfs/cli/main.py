"""The command's arguments, and what becomes of errors: one line on standard error, and an exit code that scripts can use."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from torch_ipfs.cli.commands import head, push, show, verify
from torch_ipfs.cli.text import escaped
from torch_ipfs.errors import OptionError, TorchIPFSError
from torch_ipfs.unixfs import parse_path

FAILED, BAD_USAGE, INTERRUPTED = 1, 2, 130

_RAISING = ("strict", "surrogateescape")
"""How streams treat characters that their encoding lacks, where nobody has chosen: the second in the locale C. Both raise."""

_SOURCE = (
    "where its blocks are: a CAR file, the folder of a local store, kubo://host:port or https://gateway; may be given "
    "several times, they are tried in turn (default: TORCH_IPFS_SOURCE, else the local store)"
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; argparse puts the usage before it."""
        self.exit(BAD_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """What the command understands."""
    top = _Parser(prog="torch-ipfs", description="Datasets that are named by a CID.")
    top.add_argument("--version", action="version", version=f"torch-ipfs {importlib.metadata.version('torch-ipfs')}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, tells: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=tells, description=f"{tells[0].upper()}{tells[1:]}.")
        sub.add_argument(
            "root", type=_root, metavar="ROOT", help="the dataset: a CID, /ipfs/CID/path or ipfs://CID/path"
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("show", show, "what a dataset's root says: name, samples, shards, schema, metadata")
    _add_source(sub)
    sub = command("head", head, "print a dataset's first samples")
    sub.add_argument("-n", "--samples", type=_count, default=5, metavar="N", help="how many (default: 5)")
    _add_source(sub)
    sub = command("verify", verify, "read and hash every block of a dataset, and check what its shards and samples say")
    _add_source(sub)
    sub = command("push", push, "copy every block of a dataset, and pin it where that is possible")
    sub.add_argument("source", type=_source, metavar="FROM", help="a source, as --source of the other commands")
    sub.add_argument(
        "target", metavar="TO", help="a .car file to be written, the folder of a local store, or kubo://host:port"
    )
    return top


def _add_source(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("-s", "--source", action="append", metavar="SOURCE", help=_SOURCE)


def _source(text: str) -> list[str]:
    return [text]


def _root(text: str) -> str:
    try:
        parse_path(text)
    except TorchIPFSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, not {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: without the command's name; by default those of this process.
    :returns: the exit code: 0; 1 where a block is bad, or something could not be had or written; 2 for bad usage; where a
        signal ended it, 128 and its number.
    """
    _make_writable()
    if arguments is None:
        _unwind_at_signals()
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except OSError as error:  # of standard output: what stores and files refuse is a TransportError
        # What is left in its buffer is to go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # who read it, such as `head`, has had enough
            _say(f"the system refused: {error}")
        return FAILED
    return status


def _run(arguments: Sequence[str] | None) -> int:
    try:
        chosen = parser().parse_args(arguments)
        status: int = chosen.run(chosen)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else FAILED
    except TorchIPFSError as error:
        _say(str(error))
        return BAD_USAGE if isinstance(error, OptionError) else FAILED
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    return status


def _make_writable() -> None:
    """Have output go nowhere where it was closed, and no character be one that the terminal's encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # This also takes up the descriptor, which would else be that of the next file that is opened.
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in _RAISING:
            stream.reconfigure(errors="backslashreplace")


def _unwind_at_signals() -> None:
    """Leave nothing half-written beside its place when the command is told to end, or its terminal is closed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has a closed terminal ignored
            signal.signal(number, _end)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _say(message: str) -> None:
    print(f"torch-ipfs: {escaped(' '.join(message.split()))}", file=sys.stderr)
