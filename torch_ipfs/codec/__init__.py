"""Bytes to values and back: CIDs, the IPLD codecs and CAR files. Nothing here opens a file or a connection.

Values are None, bool, int, float, str, bytes, list, dict with str keys, and :class:`torch_ipfs.codec.cid.CID`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch_ipfs.codec import car, dag_cbor, dag_json, dag_pb, json
from torch_ipfs.codec import cid as _cid
from torch_ipfs.errors import CodecError

if TYPE_CHECKING:
    from torch_ipfs.codec.cid import CID

__all__ = ["car", "dag_cbor", "dag_json", "dag_pb", "decode", "encode", "json"]

_CODECS = {_cid.DAG_CBOR: dag_cbor, _cid.DAG_JSON: dag_json, _cid.DAG_PB: dag_pb, _cid.JSON: json}


def decode(cid: CID, data: bytes | bytearray | memoryview) -> Any:
    """The value of the block ``data`` by the codec that ``cid`` names; of a raw block its bytes. Nothing is hashed.

    DAG-CBOR may hold the float -0.0 here, which its spec does not have, but Kubo's ``dag put`` writes.

    :raises CodecError: the bytes are not what the codec says, or there is no decoder for it here.
    """
    code = cid.codec
    if code == _cid.RAW:
        return bytes(data)
    codec = _CODECS.get(code)
    if codec is None:
        raise CodecError(f"no decoder for codec {cid.codec_name}; there are raw, {_known()}", cid=cid)
    try:
        return dag_cbor.decode(data, minus_zero=True) if codec is dag_cbor else codec.decode(data)
    except CodecError as error:
        raise CodecError(str(error), cid=cid) from None


def encode(codec_name: str, value: object) -> bytes:
    """The block of ``value`` in a codec by its multicodec name.

    :raises CodecError: the codec does not hold the value, or there is no encoder for it here.
    """
    code = _cid.codec_code(codec_name)
    if code == _cid.RAW:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise CodecError(f"a raw block is bytes, not {type(value).__name__}")
        return bytes(value)
    codec = _CODECS.get(code)
    if codec is None:
        raise CodecError(f"no encoder for codec {codec_name}; there are raw, {_known()}")
    block: bytes = codec.encode(value)
    return block


def _known() -> str:
    return ", ".join(_cid.CODEC_NAMES[code] for code in _CODECS)
