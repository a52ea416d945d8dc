"""Where a run's network and data come from: what the configuration names, or objects that the caller has."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ntt_cli.config import FACTORY, DataOptions, ModelOptions, Split
from ntt_cli.data import Samples, load_samples
from ntt_cli.data.batch import Batch
from ntt_cli.data.sources.batches import with_arguments
from ntt_cli.data.sources.objects import samples_of
from ntt_cli.errors import DataError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.files.hashed import tensor_hashes
from ntt_cli.files.shards import find_weights
from ntt_cli.networks.loading.lazy import require_made
from ntt_cli.networks.loading.models import LoadedModel, chosen_by, load_model
from ntt_cli.networks.loading.objects import loaded_from, state_sha256
from ntt_cli.networks.loading.open import mostly_differ
from ntt_cli.networks.output_mask import OutputMask

OTHER_SEED = 500_009
"""Added to the seed to find out whether the factory uses it."""

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
    output_mask: OutputMask | None = None
    """Which outputs count, in the place of `output_mask(batch)` in model.py."""

    def load_model(self, options: ModelOptions, *, seed: int) -> LoadedModel:
        """A network of the caller's own values, or one that is built from `seed`.

        Raises:
            ModelError: if there is no such model, or it is no network that can be pruned.
        """
        first = partial(self._first_batch, options)
        if self.model is None:
            loaded = load_model(options, seed=seed, first_batch=first)
            own = FACTORY in {getattr(options, name, None) for name in ("weights", "checkpoint")}
            loaded = replace(loaded, trained=True) if own else loaded
        else:
            chosen = chosen_by(options)
            loaded = loaded_from(self.model, trained=self.trained, select_outputs=chosen, seed=seed, first_batch=first)
        return replace(loaded, output_mask=self.output_mask or loaded.output_mask)

    def _first_batch(self, options: ModelOptions, loaded: LoadedModel) -> Batch | None:
        """A batch that says which shapes a network takes: of the data, or else of the declared shape.

        Raises:
            ModelError: if a run knows neither.
        """
        if not isinstance(options, DataOptions):
            return None  # the shapes come from a file of weights
        if options.data is not None or loaded.data is not None or self.has_data:
            samples = self.load_samples(options, loaded, split="train", labelled=False)
            return samples.inputs(torch.arange(min(2, len(samples))))
        if loaded.input_shape is None:
            require_made(loaded.module, loaded.source)
            return None
        return torch.zeros(2, *loaded.input_shape)

    def heeds_seed(self, options: ModelOptions, loaded: LoadedModel, *, seed: int) -> bool:
        """Whether another seed changes most of the factory's weights.

        A factory that loads trained weights or sets its own seed builds the same weights again.
        """
        return mostly_differ(loaded.module, self.load_model(options, seed=seed + OTHER_SEED).module)

    def load_samples(
        self, options: DataOptions, loaded: LoadedModel, *, split: Split, labelled: bool = True
    ) -> Samples:
        """The samples, their labels only where they are looked at.

        Raises:
            DataError: if no data is named, or it cannot be found, read or used.
        """
        if self.data is not None:
            return with_arguments(samples_of(self.data, options=options, labelled=labelled), loaded.module, split)
        if self.model is not None and options.data is None:
            hint = "give inputs, or inputs and labels, behind the network: tensors, a Dataset, a DataLoader or a name"
            raise DataError("data", "is missing", hint=hint)
        shape = loaded.input_shape
        found = load_samples(options, split=split, default=loaded.data, input_shape=shape, labelled=labelled)
        return with_arguments(found, loaded.module, split)

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
            for value in (
                self.model,
                self.checkpoint,
                self.teacher,
                self.data,
                self.test_data,
                self.task,
                self.output_mask,
            )
        )

    def testing(self) -> Sources:
        """The same network with the test data in the place of the data."""
        return replace(self, data=self.test_data)

    @property
    def has_data(self) -> bool:
        return self.data is not None


AS_NAMED = Sources()
"""No objects: the configuration names everything."""
