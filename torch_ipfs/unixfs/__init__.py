"""Files and directories out of blocks, and into them.

https://specs.ipfs.tech/unixfs/
"""

from __future__ import annotations

from torch_ipfs.unixfs.directory import lookup, ls
from torch_ipfs.unixfs.directory_writer import write_directory
from torch_ipfs.unixfs.file_reader import file_size, iter_read, read
from torch_ipfs.unixfs.file_writer import write, write_file
from torch_ipfs.unixfs.node import Dag, Link
from torch_ipfs.unixfs.path import parse_path, resolve

__all__ = [
    "Dag",
    "Link",
    "file_size",
    "iter_read",
    "lookup",
    "ls",
    "parse_path",
    "read",
    "resolve",
    "write",
    "write_directory",
    "write_file",
]
