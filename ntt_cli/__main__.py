"""`python -m ntt_cli` is `ntt`."""

import os
import sys

if sys.path[0] == os.getcwd():
    # Put there by `-m`. A folder of somebody's checkpoints may hold a json.py or a torch.py.
    del sys.path[0]

from ntt_cli.cli.app import main  # noqa: E402

main()
