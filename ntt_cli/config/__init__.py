"""Every option of every command: its type, default, bounds and help, once.

`cli/` turns the fields into options, a TOML file may set the same names, and what a run used is written to its files.
The classes are frozen and checked where they are made.
"""

from __future__ import annotations

from ntt_cli.config.compare import REFERENCES, CompareConfig, method_of
from ntt_cli.config.options import (
    GROUPS,
    OUTPUT,
    DataOptions,
    Group,
    ModelOptions,
    Options,
    Split,
    name_of,
    recorded,
)
from ntt_cli.config.prune import PAPER_PRESET, Method, PruneConfig
from ntt_cli.config.training import EvaluateConfig, FinetuneConfig

__all__ = [
    "COMMANDS",
    "GROUPS",
    "OUTPUT",
    "PAPER_PRESET",
    "REFERENCES",
    "CompareConfig",
    "DataOptions",
    "EvaluateConfig",
    "FinetuneConfig",
    "Group",
    "Method",
    "ModelOptions",
    "Options",
    "PruneConfig",
    "Split",
    "method_of",
    "name_of",
    "recorded",
]

COMMANDS: dict[str, type[Options]] = {
    "prune": PruneConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
}
"""The commands that take a configuration."""
