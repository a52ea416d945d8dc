from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ntt_cli.config.file import read_config_file
from ntt_cli.errors import UsageError


def read(folder: Path, text: str, command: str = "prune") -> dict[str, Any]:
    path = folder / "ntt.toml"
    path.write_text(text, encoding="utf-8")
    return read_config_file(path, command)


def refusal(folder: Path, text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(folder, text)
    assert caught.value.exit_code == 2
    assert caught.value.where == str(folder / "ntt.toml")
    return caught.value


def test_the_commands_table_goes_before_the_top_level(tmp_path: Path) -> None:
    text = "seed = 1\nepochs = 2\nsparsity = 0.5\n[prune]\nseed = 3\n[finetune]\nepochs = 4\n"
    assert read(tmp_path, text, "prune") == {"seed": 3, "epochs": 2, "sparsity": 0.5}
    assert read(tmp_path, text, "finetune") == {"seed": 1, "epochs": 4}
    assert read(tmp_path, text, "evaluate") == {"seed": 1}


def test_names_may_be_written_as_options_are(tmp_path: Path) -> None:
    assert read(tmp_path, "mask-update-every = 7\n[prune]\nmodel-arg = ['a=1']\n") == {
        "mask_update_every": 7,
        "model_arg": ["a=1"],
    }


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing yet\n") == {}


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("sparsty = 0.5", "sparsty is not an option of ntt", "did you mean sparsity?"),
        ("[prune]\nsparsty = 0.5", "sparsty is not an option of ntt prune", "did you mean sparsity?"),
        ("[evaluate]\nsparsity = 0.5", "sparsity is not an option of ntt evaluate", ""),
        ("[prun]\nsparsity = 0.5", "prun is not an option of ntt", "did you mean [prune]?"),
        ("prune = 3", "prune is not an option of ntt", "did you mean [prune]?"),
        ("xyzzy = 1", "xyzzy is not an option of ntt", "ntt COMMAND --help lists the names"),
        ("json = true", "json is not an option of ntt", ""),
    ],
)
def test_unknown_names(tmp_path: Path, text: str, what: str, hint: str) -> None:
    error = refusal(tmp_path, text)
    assert str(error) == f"{tmp_path / 'ntt.toml'}: {what}"
    assert hint in error.hint


def test_another_commands_table_is_checked_too(tmp_path: Path) -> None:
    assert "of ntt finetune" in str(refusal(tmp_path, "sparsity = 0.5\n[finetune]\nepohcs = 3\n"))


def test_no_toml(tmp_path: Path) -> None:
    error = refusal(tmp_path, "seed = 1\nsparsity = \n")
    assert "is not valid TOML" in str(error)
    assert "line 2" in str(error)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "ntt.toml").write_bytes(b"seed = \xff")
    with pytest.raises(UsageError, match="is not valid TOML"):
        read_config_file(tmp_path / "ntt.toml", "prune")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("limit = " + "[" * 20_000, "is nested too deeply"),
        ("limit = " + "{a=" * 20_000, "is nested too deeply"),
        ("limit = " + "9" * 5000, "is not valid TOML: Exceeds the limit"),
        ("a." * 50_000 + "b = 1", "is longer than 65,536 bytes"),
        ('model = "a\\u0000.py"', "model holds a null character"),
        ('model_arg = ["a=1", "b=\\u0000"]', "model_arg holds a null character"),
        ("x" * 30_000 + " = 1", f"{'x' * 99} is not an option of ntt"),
        (f"[{'x' * 9000}]\n" * 2, f"is not valid TOML: Cannot declare ('{'x' * 82} … xxx"),
        (f"{'x-' * 900} = 1\n{'x_' * 900} = 1", f"sets {'x-' * 49}x and {'x_' * 49}x"),
        ("[prune]\nmask-update-every = 1\nmask_update_every = 2", "sets mask-update-every and mask_update_every"),
    ],
)
def test_hostile_files(tmp_path: Path, text: str, what: str) -> None:
    error = refusal(tmp_path, text)
    assert str(error).startswith(f"{tmp_path / 'ntt.toml'}: {what}")
    assert len(str(error)) < 400
    assert error.hint


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(UsageError, match="is longer than 65,536 bytes"):
        read_config_file(Path("/dev/zero"), "prune")


@pytest.mark.parametrize(("name", "reason"), [("missing.toml", "No such file or directory"), ("", "Is a directory")])
def test_no_file(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be read: {reason}") as caught:
        read_config_file(tmp_path / name, "prune")
    assert "--config" in caught.value.hint
