"""Where a run's network and data come from: what the configuration names, or objects that the caller has."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ntt_cli.config import FACTORY, DataOptions, ModelOptions, Split
from ntt_cli.data import Samples, load_samples
from ntt_cli.data.sources.objects import samples_of
from ntt_cli.errors import DataError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.files.hashed import tensor_hashes
from ntt_cli.files.shards import find_weights
from ntt_cli.networks.loading.models import LoadedModel, chosen_by, load_model
from ntt_cli.networks.loading.objects import loaded_from, state_sha256

OWN = "the network"
"""Stands in a configuration for the weights that a network object has."""


@dataclass(frozen=True, eq=False)
class Sources:
    """Objects in the place of names; `None` where the configuration has the name.

    The network is never changed; it is `trained` if its weights are more than a draw of the initialisation. It gets the
    weights and masks of `checkpoint`, and an evaluation compares it with `teacher`. Data are a tensor, a pair of
    tensors, a Dataset or a DataLoader.
    """

    model: nn.Module | None = None
    trained: bool = True
    checkpoint: Checkpoint | None = None
    teacher: Checkpoint | None = None
    data: object | None = None
    test_data: object | None = None
    task: object | None = None
    """A task of the caller's own."""

    def load_model(self, options: ModelOptions, *, seed: int) -> LoadedModel:
        """A network of the caller's own values, or one that is built from `seed`.

        Raises:
            ModelError: if there is no such model, or it is no network that can be pruned.
        """
        if self.model is None:
            loaded = load_model(options, seed=seed)
            own = FACTORY in {getattr(options, name, None) for name in ("weights", "checkpoint")}
            return replace(loaded, trained=True) if own else loaded
        return loaded_from(self.model, trained=self.trained, select_outputs=chosen_by(options))

    def load_samples(
        self, options: DataOptions, loaded: LoadedModel, *, split: Split, labelled: bool = True
    ) -> Samples:
        """The samples, their labels only where they are looked at.

        Raises:
            DataError: if no data is named, or it cannot be found, read or used.
        """
        if self.data is not None:
            return samples_of(self.data, options=options, labelled=labelled)
        if self.model is not None and options.data is None:
            hint = "give inputs, or inputs and labels, behind the network: tensors, a Dataset, a DataLoader or a name"
            raise DataError("data", "is missing", hint=hint)
        shape = loaded.input_shape
        return load_samples(options, split=split, default=loaded.data, input_shape=shape, labelled=labelled)

    def weights_of(self, path: str | None) -> str | Checkpoint | None:
        """What the network's weights are loaded from; `None`: they are its own."""
        if self.checkpoint is None and path == (FACTORY if self.model is None else OWN):
            return None
        return self.checkpoint or path

    def weights_sha256(self, path: str | None) -> str | None:
        """Of the weights that a run begins with, where they are more than a seed and a factory say."""
        found = self.weights_of(path)
        if isinstance(found, Checkpoint):
            return sha256_of(json.dumps(tensor_hashes(found.tensors), sort_keys=True).encode())
        if found is None:
            return None if self.model is None else state_sha256(self.model)
        return find_weights(Path(found)).sha256

    @property
    def in_memory(self) -> bool:
        """Whether anything is an object."""
        return any(
            value is not None
            for value in (self.model, self.checkpoint, self.teacher, self.data, self.test_data, self.task)
        )

    def testing(self) -> Sources:
        """The same network with the test data in the place of the data."""
        return replace(self, data=self.test_data)

    @property
    def has_data(self) -> bool:
        return self.data is not None


AS_NAMED = Sources()
"""No objects: the configuration names everything."""
