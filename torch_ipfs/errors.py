"""Every error that torch_ipfs raises, in one tree.

    TorchIPFSError
    ├── CodecError            bytes that are not what their codec says (also a ValueError)
    ├── OptionError           an argument that cannot work (also a ValueError)
    ├── BlockError            one block could not be had
    │   ├── BlockNotFound     no source has it
    │   ├── BlockRefused      a source will not give it (HTTP 410, 451)
    │   ├── HashMismatch      the bytes do not hash to the CID that was asked for
    │   └── BlockTooLarge     over the limit that is in force
    ├── TransportError        a source could not be reached, or broke off; later it may work
    │   └── StoreClosed       its store was closed, or the process forked, before the answer came
    ├── ManifestError         a dataset whose blocks are whole but say what cannot be
    │   └── SampleError       one sample or field of it does not fit the dataset's schema
    └── ResumeError           a state that does not belong to this dataset and options

Each carries ``cid`` and ``source`` where it has them, as text. Both are part of the message, in a form that is read back
when the error is made again from its message alone, which is what torch does with an error of a DataLoader worker
(``torch._utils.ExceptionWrapper.reraise`` calls ``type(message)``).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch_ipfs.codec.cid import CID

_CONTEXT = re.compile(r' \[cid=(null|"(?:[^"\\]|\\.)*"), source=(null|"(?:[^"\\]|\\.)*")\]')


class TorchIPFSError(Exception):
    """Root of the tree.

    :param message: what was expected, what came, and what to do.
    :param cid: the CID concerned; ``None`` where the message names it itself, or there is none.
    :param source: the store, file or URL concerned, without secrets.

    ``reason`` is the message without these two, for an error that is raised because of this one.
    """

    cid: str | None
    source: str | None
    reason: str

    def __init__(self, message: str, *, cid: CID | str | None = None, source: str | None = None) -> None:
        self.cid = None if cid is None else str(cid)
        self.source = source
        self.reason = message
        if self.cid is not None or source is not None:
            message = f"{message} [cid={json.dumps(self.cid)}, source={json.dumps(source)}]"
        elif found := _CONTEXT.findall(message):
            self.cid, self.source = (json.loads(text) for text in found[-1])
            self.reason = _CONTEXT.sub("", message)
        super().__init__(message)

    def __reduce__(self) -> tuple[type[TorchIPFSError], tuple[str], dict[str, object]]:
        return type(self), (str(self),), self.__dict__


class CodecError(TorchIPFSError, ValueError):
    """Bytes or values that their codec does not allow. The message names the byte offset where there is one."""


class OptionError(TorchIPFSError, ValueError):
    """An argument, or a pair of them, that cannot work."""


class BlockError(TorchIPFSError):
    """One block could not be had; others may."""


class BlockNotFound(BlockError):
    """No source that was asked has the block."""


class BlockRefused(BlockError):
    """A source has the block, or may have it, and will not give it (HTTP 410 and 451)."""


class HashMismatch(BlockError):
    """The bytes do not hash to the CID that was asked for."""


class BlockTooLarge(BlockError):
    """The block is over the limit that is in force."""


class TransportError(TorchIPFSError):
    """A source could not be reached, or broke off. Another try, or another source, may do."""


class StoreClosed(TransportError):
    """The store was closed, or the process forked, before the answer came, which says nothing of the source."""


class ManifestError(TorchIPFSError):
    """A dataset whose blocks are whole but which says what cannot be."""


class SampleError(ManifestError):
    """One sample, or one field of it, does not fit the dataset's schema."""


class ResumeError(TorchIPFSError):
    """A state that does not belong to this dataset and these options."""
