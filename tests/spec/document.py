"""The specification's document, beside this file as it was written, and the code in it."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = Path(__file__).with_name("ipfs-dataloader-spec.md")

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_IMPORT = ("from ipfs_kit_py.ipfs_kit import ipfs_kit", "from torch_ipfs.kit import ipfs_kit")


def blocks(language: str) -> list[str]:
    """The document's code blocks in a language, in their order."""
    return [code for kind, code in _BLOCK.findall(DOCUMENT.read_text()) if kind == language]


def block_with(text: str) -> str:
    """The Python block that has ``text`` in it, ready to run: with the import line of this package."""
    (code,) = (code for code in blocks("python") if text in code)
    return code.replace(*_IMPORT)


def run(code: str, **names: object) -> dict[str, object]:
    """Run a block.

    :param names: the placeholders in it, and what it takes from blocks before.
    """
    namespace: dict[str, object] = {"__name__": "the_document", **names}
    exec(compile(code, str(DOCUMENT), "exec"), namespace)
    return namespace
