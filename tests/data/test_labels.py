from __future__ import annotations

import torch

from ntt_cli.data import Samples
from ntt_cli.data.labels import by_name
from ntt_cli.data.samples import InMemory
from tests.data.refusal import refusal

MAPS = torch.tensor([[[0, 1], [1, 0]]])


def of_maps(*, labels_read: bool) -> Samples:
    source = InMemory(torch.zeros(1, 3, 2, 2))
    return Samples("maps", source, labels=MAPS, class_names=("sky", "road"), labels_read=labels_read)


def test_maps_are_numbered_like_the_networks_outputs() -> None:
    found = by_name(of_maps(labels_read=False), ("road", "sky"), lambda _: None, purpose="accuracy is over")
    assert torch.equal(found.labels, 1 - MAPS)  # type: ignore[arg-type]


def test_labels_that_change_must_be_numbered_like_the_networks_outputs() -> None:
    same = by_name(of_maps(labels_read=True), ("sky", "road"), lambda _: None, purpose="accuracy is over")
    assert torch.equal(same.labels, MAPS)  # type: ignore[arg-type]
    with refusal("maps: numbers its classes otherwise than the network, road, sky", hint="number them"):
        by_name(of_maps(labels_read=True), ("road", "sky"), lambda _: None, purpose="accuracy is over")
