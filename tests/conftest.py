"""Shapes in signatures are checked by beartype in every call that the tests make."""

from jaxtyping import install_import_hook

install_import_hook("ntt_cli.core", "beartype.beartype")
