"""Every option of every command, with its type, default, bounds and help in one place.

`cli/` turns the fields into options. A TOML file may set the same names. A run records its options in its files. The
classes are frozen, and their values are checked when an object is made.
"""

from __future__ import annotations

from ntt_cli.config.bench import BenchConfig
from ntt_cli.config.compare import REFERENCES, CompareConfig, method_of
from ntt_cli.config.export import BATCH_SIZES, COREML, HUB_FOLDER, PROGRAMS, ExportConfig
from ntt_cli.config.fields import Group, Options, ReadWhen, name_of, recorded
from ntt_cli.config.methods import built_in_methods, method_class, method_names, readers_of, register_method
from ntt_cli.config.ntt import PAPER_PRESET, NTTOptions
from ntt_cli.config.options import FACTORY, NAMED_DATA, DataOptions, ModelOptions, Split, TaskOptions, WeightsOptions
from ntt_cli.config.prune import PruneConfig
from ntt_cli.config.training import EvaluateConfig, FinetuneConfig, limit_of
from ntt_cli.config.words import BEHIND_METHOD, LEAVE_OUT, advice, as_typed, flag, problem_of, typed

COMMANDS: dict[str, type[Options]] = {
    "prune": PruneConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "export": ExportConfig,
    "bench": BenchConfig,
}
"""The commands that take a configuration."""
