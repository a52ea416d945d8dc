"""`python -m ntt_cli` is `ntt`."""

from ntt_cli.cli.app import main

main()
