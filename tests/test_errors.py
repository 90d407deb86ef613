"""Errors keep what they know, through pickles and through torch's way of making them again in the parent."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from torch._utils import ExceptionWrapper

from torch_ipfs import errors

CID_TEXT = "bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm"
TREE = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.TorchIPFSError)
]
SOURCES = [None, "/data/a.car", 'a "quoted" [source=null] \\ path\n.car', "http://127.0.0.1:1/ipfs"]


def same(one: Any, other: Any) -> bool:
    return (type(one), one.cid, one.source, str(one), one.reason) == (
        type(other),
        other.cid,
        other.source,
        str(other),
        other.reason,
    )


@pytest.mark.parametrize("kind", TREE)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("cid", [None, CID_TEXT])
def test_an_error_survives(kind: type[errors.TorchIPFSError], cid: str | None, source: str | None) -> None:
    error = kind("expected this, found that", cid=cid, source=source)
    assert (error.cid, error.source) == (cid, source)
    assert same(pickle.loads(pickle.dumps(error)), error)
    assert same(kind(str(error)), error)
    assert error.reason == kind(str(error)).reason == "expected this, found that"


@pytest.mark.parametrize("kind", TREE)
def test_torch_raises_a_workers_error_as_what_it_was(kind: type[errors.TorchIPFSError]) -> None:
    try:
        raise kind("expected this, found that", cid=CID_TEXT, source="/data/a.car")
    except errors.TorchIPFSError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(kind, match="expected this, found that") as caught:
        wrapped.reraise()
    assert (caught.value.cid, caught.value.source) == (CID_TEXT, "/data/a.car")


def test_a_value_error_is_what_bad_arguments_and_bytes_are() -> None:
    assert issubclass(errors.OptionError, ValueError)
    assert issubclass(errors.CodecError, ValueError)
