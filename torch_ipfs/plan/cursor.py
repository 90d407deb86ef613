"""Where a run stands: the state that a checkpoint keeps. Small, JSON-able, and free of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch_ipfs.errors import OptionError, ResumeError
from torch_ipfs.plan.shuffle import ShuffleOptions

STATE_VERSION = 1
_CHANGED = "it was changed since state_dict() gave it: load the state of another checkpoint"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a run that any batch size, world size, number of workers, source and machine can go on from.

    :param root: the dataset's root CID, as text.
    :param position: positions of the epoch that every rank together has had.
    :param shuffle: the options of the order; ``None`` where it is not shuffled.
    """

    root: str
    seed: int
    epoch: int
    position: int
    shuffle: ShuffleOptions | None

    def to_state(self) -> dict[str, Any]:
        """The state as plain values, under 1 KiB."""
        return {"version": STATE_VERSION, **asdict(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Cursor:
        """The cursor that ``to_state`` wrote.

        :raises ResumeError: ``state`` is of another version, or no such state at all; names the field.
        """
        if not isinstance(state, Mapping):
            raise ResumeError(f"a state is a mapping as state_dict() gives it, but this is a {type(state).__name__}")
        version = state.get("version")
        if type(version) is not int or version != STATE_VERSION:
            raise ResumeError(
                f"field 'version' of the state is {_shown(version)}, expected {STATE_VERSION}: "
                "it was not written by state_dict() of this version; start the run anew, or use the version that wrote it"
            )
        odd = min(state.keys() ^ {"version", *cls.__dataclass_fields__}, key=repr, default=None)
        if odd is not None:
            raise ResumeError(
                f"field {_shown(odd)} of the state is {'unknown' if odd in state else 'missing'}; {_CHANGED}"
            )
        if not isinstance(state.get("root"), str):
            raise ResumeError(
                f"field 'root' of the state must be a CID as text, but is {_shown(state.get('root'))}; {_CHANGED}"
            )
        return cls(
            root=state["root"],
            seed=_integer(state, "seed", None),
            epoch=_integer(state, "epoch", 0),
            position=_integer(state, "position", 0),
            shuffle=_shuffle(state.get("shuffle")),
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _integer(state: Mapping[str, Any], name: str, least: int | None, within: str = "") -> int:
    value = state.get(name)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or (least is not None and value < least)
        or not -(2**63) <= value < 2**63
    ):
        bound = "" if least is None else f" of at least {least}"
        raise ResumeError(
            f"field '{within}{name}' of the state must be an integer{bound} below 2**63, but is {_shown(value)}; {_CHANGED}"
        )
    return value


def _shuffle(value: object) -> ShuffleOptions | None:
    if value is None:
        return None
    names = set(ShuffleOptions.__dataclass_fields__)
    if not isinstance(value, Mapping) or set(value) != names:
        raise ResumeError(
            f"field 'shuffle' of the state must be null or have {sorted(names)}, but is {_shown(value)}; {_CHANGED}"
        )
    try:
        return ShuffleOptions(**{name: _integer(value, name, 1, "shuffle.") for name in sorted(names)})
    except OptionError as error:
        raise ResumeError(f"field 'shuffle' of the state cannot be: {error}; {_CHANGED}") from None
