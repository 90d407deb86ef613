"""What an entry of a directory may be called.

https://specs.ipfs.tech/unixfs/#restricted-names
"""

from __future__ import annotations

from torch_ipfs.codec.cid import CID
from torch_ipfs.errors import CodecError


def check_name(name: str, cid: CID | None = None, source: str | None = None) -> None:
    """Refuse a name that would, as a file's, be another place than one in its directory.

    :param cid: the directory, for the error.
    :raises CodecError: it is empty, ``.`` or ``..``, or has a slash or a NUL in it, or is no Unicode text.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name or not _is_unicode(name):
        raise CodecError(
            f"{name[:200]!r} cannot name an entry of a directory: a name is Unicode text without '/' and NUL, "
            "and not '', '.' or '..'",
            cid=cid,
            source=source,
        )


def _is_unicode(name: str) -> bool:
    """Whether the text has no lone half of a surrogate pair, which UTF-8 cannot write."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
