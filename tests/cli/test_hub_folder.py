"""`ntt export --to hub-folder`: the folder as somebody would use it who has no ntt."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ntt_cli
from ntt_cli.errors import OutputError, UsageError
from ntt_cli.files.atomic import file_sha256
from tests import processes
from tests.cli.conftest import MODEL, Ntt

pytestmark = pytest.mark.usefixtures("checkpoints")

HUB = ("export", "sparse.safetensors", "--to", "hub-folder")
FILES = ["README.md", MODEL, "model.safetensors"]


def names(folder: str | Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*") if file.is_file())


def test_the_card_builds_the_network_without_ntt(ntt: Ntt) -> None:
    made = ntt(*HUB, "--model", MODEL, "--license", "apache-2.0")
    assert made.code == 0, made.err
    assert names("sparse-hub") == FILES
    assert Path("sparse-hub", MODEL).read_bytes() == Path(MODEL).read_bytes()
    assert Path("sparse-hub/model.safetensors").read_bytes() == Path("sparse.safetensors").read_bytes()
    assert "huggingface_hub.upload_folder(repo_id=..., folder_path='sparse-hub')" in made.out
    card = Path("sparse-hub/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    shown = "import sys, torch\nassert 'ntt_cli' not in sys.modules\nprint(network(torch.ones(2, 1, 8, 8)).tolist())"
    ran = processes.run([sys.executable, "-c", f"{code}\n{shown}"], cwd="sparse-hub")
    assert ran.returncode == 0, ran.stderr
    net = ntt_cli.load("sparse.safetensors", MODEL).model
    torch.testing.assert_close(torch.tensor(eval(ran.stdout)), net(torch.ones(2, 1, 8, 8)).detach())


def test_the_card_says_what_the_file_holds(ntt: Ntt) -> None:
    assert ntt(*HUB, "--model", MODEL, "--license", "mit").code == 0
    card = Path("sparse-hub/README.md").read_text(encoding="utf-8")
    assert card.startswith(
        '---\nlicense: "mit"\nlibrary_name: pytorch\ntags:\n- pruning\n- sparsity\n- neural-tangent-'
    )
    state = load_file("sparse.safetensors")
    weights = {name: value for name, value in state.items() if value.ndim > 1}
    for name, value in weights.items():
        kept, zero = int(value.count_nonzero()), float((value == 0).double().mean())
        assert f"| `{name}` | {value.shape[0]} × {value.shape[1]} | {kept:,} | {zero:.1%} |\n" in card
    assert (
        "90.00% of the prunable weights are exactly zero.\nNeural Tangent Transfer chose them without labels." in card
    )
    assert file_sha256(Path("sparse.safetensors")) in card
    (command,) = re.findall(r"\$ (ntt prune .*)", card)
    assert all(f" {words}" in command for words in (MODEL, "--sparsity 0.9", "--steps 10", "--limit 20"))
    assert "- **Licence**: mit.\n" in card


def test_without_a_model_and_a_licence_it_says_neither(ntt: Ntt) -> None:
    found = ntt("export", "tuned.safetensors", "--to", "hub-folder", "-o", "x", "--json").report
    assert names("x") == ["README.md", "model.safetensors"] == sorted(found["bytes_by_file"])
    assert found["bytes"] == sum(Path("x", name).stat().st_size for name in found["bytes_by_file"])
    card = Path("x/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name")
    assert "icence" not in card
    assert f"network = ...  # {MODEL}\n" in card
    assert "trained on labels, and the zeros were held" in card


def test_every_command_takes_the_folder(ntt: Ntt) -> None:
    assert ntt(*HUB, "--model", MODEL).code == 0
    plain = ntt("evaluate", MODEL, "-c", "sparse.safetensors", "--limit", "50", "--json").report
    folder = ntt("evaluate", f"sparse-hub/{MODEL}", "-c", "sparse-hub", "--limit", "50", "--json").report
    assert folder["accuracy"] == plain["accuracy"]


def test_a_packed_file_becomes_the_plain_one(ntt: Ntt) -> None:
    assert ntt("export", "sparse.safetensors", "--to", "packed").code == 0
    assert ntt("export", "sparse.packed.safetensors", "--to", "hub-folder", "-o", "x").code == 0
    assert Path("x/model.safetensors").read_bytes() == Path("sparse.safetensors").read_bytes()


def test_imports_from_beside_the_model_come_with_it(ntt: Ntt, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").write_text("")
    shutil.copy(MODEL, tmp_path / "parts/net.py")
    (tmp_path / "my-model.py").write_text("from parts.net import *\nfrom parts.net import build_model\n")
    made = ntt(*HUB, "--model", "my-model.py")
    assert made.code == 0, made.err
    assert names("sparse-hub") == ["README.md", "model.safetensors", "my-model.py", "parts/__init__.py", "parts/net.py"]
    assert 'runpy.run_path("my-model.py")["build_model"]()' in Path("sparse-hub/README.md").read_text()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--license", "MIT License"], "--license 'MIT License': is not of this form"),
        (["--dtype", "float16"], "--dtype float16: --to hub-folder writes the weights as they are"),
        (["--data", "digits"], "--data digits: --to hub-folder writes the weights alone, and does not read it"),
        (["--model-arg", "a=1"], "no network is named"),
        (["--model", "other.py"], "belongs to another model"),
        (["-o", "no/such"], "its folder does not exist"),
        (["-o", MODEL], "exists already, and is no folder\nhint: name another with --output\n"),
        (["-o", MODEL, "--force"], "exists already, and is no folder\nhint: name another with --output\n"),
    ],
    ids=str,
)
def test_errors_leave_nothing(ntt: Ntt, options: list[str], error: str) -> None:
    Path("other.py").write_text("from torch import nn\ndef build_model():\n    return nn.Linear(3, 2)\n")
    before = names(".")
    made = ntt(*HUB, *options)
    assert made.code == 2
    assert error in made.err
    assert names(".") == before


def test_of_a_folder_that_is_there(ntt: Ntt, tmp_path: Path) -> None:
    Path("sparse-hub").mkdir()
    assert ntt(*HUB).code == 0  # an empty one
    Path("sparse-hub/notes.txt").write_text("mine")
    made = ntt(*HUB)
    assert (made.code, made.err) == (
        2,
        "error: sparse-hub: is not empty\nhint: name another with --output, or write into it with --force\n",
    )
    Path("sparse-hub/README.md").write_text("edited")
    assert ntt(*HUB, "--model", MODEL, "--force").code == 0
    assert names("sparse-hub") == sorted([*FILES, "notes.txt"])
    assert "edited" not in Path("sparse-hub/README.md").read_text()
    Path("sparse-hub/README.md").unlink()
    Path("sparse-hub/README.md").symlink_to(tmp_path / MODEL)
    made = ntt(*HUB, "--force")
    assert made.code == 2
    assert "is a link" in made.err


def test_a_full_disk_leaves_nothing(ntt: Ntt, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(str(path) for path in Path().iterdir())
    monkeypatch.setattr(shutil, "copyfile", full)
    made = ntt(*HUB, "--model", MODEL)
    assert made.code == 2
    assert "sparse-hub: cannot be written: No space left on device" in made.err
    assert sorted(str(path) for path in Path().iterdir()) == before


def test_names_are_text_in_the_card(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("a|b`c\nd", nn.Linear(4, 2))
    result = ntt_cli.prune(net, sparsity=0.5, method="magnitude")
    made = ntt_cli.export(result, to="hub-folder", output=tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "| `a\\|b'c d.weight` | 2 × 4 | 4 | 50.0% |" in card
    assert "network = ...  # torch.nn.modules.container.Sequential\n" in card
    assert made.sha256 == file_sha256(tmp_path / "out/model.safetensors")


def test_a_file_from_elsewhere_has_no_card(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 2)}, "x.pt")
    with pytest.raises(UsageError, match=r"x\.pt does not say how it was made"):
        ntt_cli.export("x.pt", to="hub-folder")
    with pytest.raises(OutputError, match="its folder does not exist"):
        ntt_cli.export("sparse.safetensors", to="hub-folder", output=tmp_path / "no/such")
