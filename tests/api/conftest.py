from tests.cli.conftest import ntt as command

__all__ = ["command"]
