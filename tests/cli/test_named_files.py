"""A file that is not there is found before torch is imported, and the message is the work's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ntt_cli.config import EvaluateConfig, PruneConfig
from ntt_cli.data.load import load_samples
from ntt_cli.errors import NttError
from ntt_cli.files.named import require_named_files
from ntt_cli.networks.loading.models import load_model
from tests.processes import run

LINES = (
    (["prune", "modle.py", "-s", "0.5"], "modle.py: there is no such file"),
    (["prune", "model.py", "-s", "0.5", "-d", "images/"], "images/: there is no such file or folder"),
    (["prune", "model.py", "-s", "0.5", "-d", "date.py:one"], "date.py: there is no such file"),
    (["prune", "model.py", "-s", "0.5", "--weights", "w.pt"], "w.pt: does not exist"),
    (["evaluate", "model.py", "-c", "w.safetensors"], "w.safetensors: does not exist"),
    (["compare", "model.py", "--test-data", "tset"], "tset: is no data set, file or folder"),
)

ALL = """
import sys
from ntt_cli.cli.app import main
for arguments in {lines!r}:
    sys.argv = ["ntt", *arguments]
    try:
        main()
    except SystemExit as exit:
        print(exit.code, "torch" in sys.modules)
"""


def test_torch_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    done = run([sys.executable, "-c", ALL.format(lines=[arguments for arguments, _ in LINES])], cwd=tmp_path)
    assert done.stdout == "2 False\n" * len(LINES)
    errors = [line.removeprefix("error: ") for line in done.stderr.splitlines() if not line.startswith("hint: ")]
    assert errors == [error for _, error in LINES]


def test_the_words_are_those_of_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").touch()
    for model, data in (("modle.py", None), ("no/model.py:net", None), ("model.py", "digts")):
        config = PruneConfig(model=model, data=data, sparsity=0.5)
        with pytest.raises(NttError) as early:
            require_named_files(config)
        with pytest.raises(NttError) as late:
            load_model(config, seed=0) if data is None else load_samples(config, split="train")
        assert (type(early.value), str(early.value), early.value.hint) == (
            type(late.value),
            str(late.value),
            late.value.hint,
        )


@pytest.mark.parametrize("named", ["factory", "folder", "model.safetensors.index.json", "random"])
def test_what_may_be_no_file_is_left_to_the_work(named: str) -> None:
    require_named_files(PruneConfig(model="torchvision:resnet18", weights=named, sparsity=0.5, data="noise:4"))
    require_named_files(EvaluateConfig(model="package.module:factory", checkpoint=named, data="digits"))
