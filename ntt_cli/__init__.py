"""Make neural networks sparse without labels, by Neural Tangent Transfer."""

__version__ = "0.1.0"
