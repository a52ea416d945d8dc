from pathlib import Path

import pytest
import torch

from ntt_cli.errors import CheckpointError
from ntt_cli.files.inspect import verify
from ntt_cli.files.metadata import ChannelRecord, SliceRecord
from tests.files.test_checkpoint import write

STATE = {"a.weight": torch.ones(3, 2), "a.bias": torch.ones(3), "b.weight": torch.ones(2, 3)}
MASKS = {
    "a.weight": torch.tensor([[1, 1], [0, 0], [1, 1]]).bool(),
    "a.bias": torch.tensor([1, 0, 1]).bool(),
    "b.weight": torch.tensor([[1, 0, 1], [1, 0, 1]]).bool(),
}
SLICES = (
    SliceRecord(tensor="a.weight", axis=0, removed=(1,)),
    SliceRecord(tensor="a.bias", axis=0, removed=(1,)),
    SliceRecord(tensor="b.weight", axis=1, removed=(1,)),
)
CHANNELS = {"a": ChannelRecord(outputs=3, removed=(1,), slices=SLICES)}


def test_channels_that_are_zero_as_a_whole_are_counted(tmp_path: Path) -> None:
    found = verify(write(tmp_path / "net.safetensors", STATE, MASKS, channels=CHANNELS))
    assert found.channels == 1
    assert verify(write(tmp_path / "single.safetensors", STATE, MASKS)).channels is None


@pytest.mark.parametrize(("name", "entry"), [("a.weight", (1, 0)), ("b.weight", (0, 1)), ("a.bias", (1,))])
@pytest.mark.parametrize("kept", [True, False])
def test_a_channel_that_is_not_whole_is_found(tmp_path: Path, name: str, entry: tuple[int, ...], kept: bool) -> None:
    """One entry of the channel is left, or one of another channel is gone."""
    masks = {layer: mask.clone() for layer, mask in MASKS.items()}
    masks[name][entry if kept else tuple(0 for _ in entry)] = kept
    path = write(tmp_path / "net.safetensors", STATE, masks, channels=CHANNELS)
    with pytest.raises(CheckpointError, match=rf"its zeros of {name} are not whole channels, as it records"):
        verify(path)


@pytest.mark.parametrize(
    "slices",
    [
        SliceRecord(tensor="c.weight", axis=0, removed=(1,)),
        SliceRecord(tensor="a.bias", axis=1, removed=(1,)),
        SliceRecord(tensor="a.weight", axis=1, removed=(2,)),
    ],
    ids=["tensor", "axis", "index"],
)
def test_slices_that_are_not_there_are_refused(tmp_path: Path, slices: SliceRecord) -> None:
    channels = {"a": ChannelRecord(outputs=3, removed=(1,), slices=(slices,))}
    path = write(tmp_path / "net.safetensors", STATE, MASKS, channels=channels)
    with pytest.raises(CheckpointError, match=f"has no such slices of {slices.tensor}"):
        verify(path)


@pytest.mark.parametrize("removed", [(3,), (1, 1), (1, 0), (0, 1, 2)], ids=["beyond", "twice", "unsorted", "all"])
def test_impossible_channels_are_refused(removed: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="removes"):
        ChannelRecord(outputs=3, removed=removed, slices=())
