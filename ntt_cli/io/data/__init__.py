"""Data sources: whatever the user names becomes `Samples`."""

from ntt_cli.io.data.load import load_samples
from ntt_cli.io.data.samples import InputSource, Samples

__all__ = ["InputSource", "Samples", "load_samples"]
