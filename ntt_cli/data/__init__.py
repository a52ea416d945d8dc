"""Data: every source that the user may name becomes `Samples`."""

from ntt_cli.data.digest import data_sha256
from ntt_cli.data.load import load_samples
from ntt_cli.data.samples import InputSource, Reading, Samples

__all__ = ["InputSource", "Reading", "Samples", "data_sha256", "load_samples"]
