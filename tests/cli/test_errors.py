"""What a user may get wrong: one message with what, where and a remedy, exit code 2, and nothing written."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ntt_cli.config import COMMANDS, flag
from tests.cli.conftest import MODEL, Ntt, content
from tests.small_networks import write_network

PRUNE = ("--sparsity", "0.9", "--steps", "20")


def refused(ntt: Ntt, *arguments: object, code: int = 2) -> tuple[str, str]:
    """The error and the hint, each of them one line, and that nothing was written."""
    before = content()
    result = ntt(*arguments)
    assert result.code == code, result.err
    assert (result.out == "") == ("--json" not in arguments)  # the error's own document
    assert "Traceback" not in result.err
    assert "warning" not in result.err
    assert content() == before
    _, found, said = f"\n{result.err}".partition("\nerror: ")  # what stands before it was worth knowing until then
    assert found
    error, _, hint = said.partition("\nhint: ")
    assert hint.endswith("\n")
    assert "\n" not in hint[:-1]
    return error, hint[:-1]


@pytest.mark.parametrize(
    ("name", "error", "hint"),
    [
        ("raises", "raises.py: raised TypeError: unsupported operand", "correct the file"),
        ("exits", "exits.py: called sys.exit(0) (line 3)", "instead of exiting"),
        ("script", "script.py: has no build_model()", "define build_model()"),
        (
            "several",
            "several.py: has no build_model() and several candidates",
            "name several.py:Net or several.py:small",
        ),
        ("number", "number.py:build_model: returned a value of type int", "return the network itself"),
        ("no weights", "no_weights.py: has no prunable weights", "--exclude and requires_grad"),
        (
            "unused",
            "unused.py: never uses idle.weight, spare.weight",
            "--exclude 'idle.weight' --exclude 'spare.weight'",
        ),
        ("nan weight", "fc2.weight: holds NaN or infinity", "mend build_model()"),
        ("nan output", "nan_output.py: returns NaN or infinity", "check the weights"),
        ("batch statistics", "layer 1: normalises by the statistics of its batch", "track_running_stats=True"),
        ("one derivative", "one_derivative.py: has an operation without the derivatives", "--kernel-weight 0"),
        ("detached", "detached.py: uses fc1.weight, fc2.weight where no gradient is kept", "--exclude"),
        (
            "leaves",
            "leaves.py: cannot take inputs of shape [2, 1, 8, 8] and type float32 from digits: SystemExit: 0",
            "--data",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_models(ntt: Ntt, name: str, error: str, hint: str) -> None:
    found = refused(ntt, "prune", write_network(name), *PRUNE)
    assert error in found[0]
    assert hint in found[1]


@pytest.mark.parametrize(
    ("model", "error", "hint"),
    [
        ("digit_mlp.py", "digit_mlp.py: there is no such file", "did you mean digits_mlp.py?"),
        ("digits_mlp", "digits_mlp: names no model", "did you mean digits_mlp.py?"),
        (
            "digits_mlp.py:built_model",
            "digits_mlp.py: defines no built_model",
            "did you mean digits_mlp.py:build_model?",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_model_names(ntt: Ntt, model: str, error: str, hint: str) -> None:
    found = refused(ntt, "prune", model, *PRUNE)
    assert error in found[0]
    assert hint in found[1]


@pytest.mark.usefixtures("folder")
def test_networks_that_cannot_be_fine_tuned(ntt: Ntt) -> None:
    error, hint = refused(ntt, "finetune", write_network("tuple in training"))
    what = "returns a tuple of 0, 1, and in its first pass one tensor"
    assert error == f"tuple_in_training.py in training mode: {what}"
    assert hint == "name outputs or layers with --outputs, or define logits(outputs) in model.py to pick one"
    error, hint = refused(ntt, "finetune", write_network("detached"))
    assert error == "detached.py: has an output that no trainable parameter acts on"
    assert "requires_grad" in hint


@pytest.mark.usefixtures("folder")
def test_everything_frozen(ntt: Ntt) -> None:
    for arguments in (["prune", write_network("frozen"), *PRUNE], ["finetune", "frozen.py"]):
        result = ntt(*arguments)
        warning, *_, error, hint = result.err.splitlines()
        assert (result.code, result.out) == (2, "")
        assert warning.startswith("warning: frozen parameters stay as they are and dense: fc1.weight")
        assert error.startswith("error: frozen.py: has ")
        assert "requires_grad" in hint


def write_images(broken: bool) -> None:
    Path("images").mkdir()
    for i in range(12):
        Image.new("L", (8, 8), color=i).save(f"images/{i:02}.png")
    if broken:
        Path("images/07.png").write_bytes(Path("images/07.png").read_bytes()[:40])


@pytest.mark.usefixtures("folder")
def test_folders_of_images(ntt: Ntt) -> None:
    write_images(broken=True)
    error, hint = refused(ntt, "prune", MODEL, *PRUNE, "--data", "images")
    assert error.startswith("images/07.png: cannot be ")
    assert hint == "repair this image or remove it"
    Path("empty").mkdir()
    error, hint = refused(ntt, "prune", MODEL, *PRUNE, "--data", "empty")
    assert error == "empty: holds no images"
    assert ".png" in hint


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.zeros((4, 1, 9, 9), np.float32), "cannot take inputs of shape [2, 1, 9, 9] and type float32 from x.npy"),
        (np.zeros((4, 3, 8, 8), np.float32), "cannot take inputs of shape [2, 3, 8, 8]"),
        (np.zeros((4, 64), np.int64), "cannot take inputs of shape [2, 64] and type int64 from x.npy"),
        (np.full((4, 64), np.nan), "x.npy: sample 0 holds a value that is not a finite float32"),
        (np.zeros((0, 64)), "x.npy: holds no samples"),
        (np.zeros((1, 64)), "x.npy: has 1 samples, 2 are needed"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_inputs(ntt: Ntt, x: np.ndarray[tuple[int, ...], np.dtype[np.float32]], error: str) -> None:
    np.save("x.npy", x)
    assert error in refused(ntt, "prune", MODEL, *PRUNE, "--data", "x.npy")[0]


@pytest.mark.parametrize(
    ("labels", "error", "hint"),
    [
        (None, "data.npz: has no labels; fine-tuning needs them", "arrays with a key y"),
        (np.arange(12), "data.npz: label 10 of sample 10 is out of range: the model has 10 outputs", "--model-arg"),
        (
            np.arange(12.0),
            "data.npz: has labels of type float32 and shape [12] for outputs of shape [12, 10]",
            "number of each sample's class",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_labels(ntt: Ntt, labels: object, error: str, hint: str) -> None:
    x = np.zeros((12, 64), np.float32)
    np.savez("data.npz", **({"x": x} if labels is None else {"x": x, "y": labels}))
    found = refused(ntt, "finetune", MODEL, "--data", "data.npz")
    assert found[0] == error
    assert hint in found[1]


@pytest.mark.usefixtures("folder")
def test_no_data(ntt: Ntt) -> None:
    error, hint = refused(ntt, "prune", write_network("tokens"), *PRUNE)
    assert error == "data: none is named"
    assert "--data" in hint
    assert 'DATA = "digits"' in hint
    error, hint = refused(ntt, "prune", MODEL, *PRUNE, "--data", "digts")
    assert hint == "did you mean digits?"


@pytest.mark.usefixtures("checkpoints")
def test_a_checkpoint_of_another_model(ntt: Ntt) -> None:
    for command in (["evaluate"], ["finetune", "--force"]):
        error, hint = refused(ntt, *command, MODEL, "-c", "sparse.safetensors", "-a", "hidden=(100,30)")
        assert error.splitlines() == [
            "sparse.safetensors: belongs to another model:",
            "  3.bias is [50], the model has [30]",
            "  3.weight is [50, 100], the model has [30, 100]",
            "  5.weight is [10, 50], the model has [10, 30]",
        ]
        assert "--model-arg" in hint


@pytest.mark.usefixtures("checkpoints")
def test_files_that_are_no_checkpoint(ntt: Ntt) -> None:
    whole = Path("sparse.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-100])
    Path("damaged.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    Path("words.safetensors").write_text("words")
    Path("pickle.pt").write_bytes(b"\x80\x04N.")
    save_file({"w": torch.zeros(1)}, "other.safetensors")
    for name, words, advice in (
        ("cut.safetensors", "is not a whole safetensors file", "it may have been cut short"),
        ("words.safetensors", "is text, not a safetensors file", "name a safetensors file"),
        ("damaged.safetensors", "is damaged: the SHA-256 does not match", "copy the file again, or make it again"),
        ("pickle.pt", "torch reads no weights of it", "safetensors.torch.save_file"),
        ("sparse.report.safetensors", "is a report, not a checkpoint", "without .report"),
        ("spare.safetensors", "does not exist", "did you mean sparse.safetensors?"),
        (".", "holds 7 files of weights and no index: cut.safetensors, ", "name one of them"),
        ("other.safetensors", "belongs to another model:\n  missing 1.weight [100, 64]", "--model-arg"),
    ):
        for arguments in (
            ["evaluate", MODEL, "--checkpoint", name],
            ["evaluate", MODEL, "--checkpoint", "dense.safetensors", "--teacher", name],
            ["prune", MODEL, *PRUNE, "--weights", name, "--output", "new.safetensors"],
            ["finetune", MODEL, "--checkpoint", name, "--output", "new.safetensors"],
        ):
            error, hint = refused(ntt, *arguments)
            assert error.startswith(f"{name}: ")
            assert words in error
            assert advice in hint


@pytest.mark.parametrize("name", ["cut", "words"])
@pytest.mark.usefixtures("checkpoints")
def test_files_that_cannot_be_inspected(ntt: Ntt, name: str) -> None:
    Path(f"{name}.safetensors").write_bytes(Path("sparse.safetensors").read_bytes()[:50] if name == "cut" else b"words")
    what = {"cut": "is not a whole safetensors file", "words": "is text, not a safetensors file"}[name]
    assert what in refused(ntt, "inspect", f"{name}.safetensors")[0]
    assert "does not exist" in refused(ntt, "inspect", "missing.safetensors", "--json")[0]


@pytest.mark.parametrize(
    ("sparsity", "error"),
    [
        ("1", "--sparsity 1: should be less than 1"),
        ("-0.1", "--sparsity -0.1: should be greater than or equal to 0"),
        ("nan", "--sparsity nan: is not a finite number"),
        ("95", "--sparsity 95: should be less than 1"),
        ("0.9999", "--sparsity 0.9999: is too high for this model"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_sparsities(ntt: Ntt, sparsity: str, error: str) -> None:
    found = refused(ntt, "prune", MODEL, "--sparsity", sparsity)
    assert found[0].startswith(error)
    hints = {"0.9999": "use at most 0.99", "95": "did you mean 0.95?"}
    assert found[1].startswith(hints.get(sparsity, "Fraction of the prunable weights"))


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["prune", MODEL], "--sparsity: is required", "0.95 keeps 5%"),
        (["prune", "--sparsity", "0.9"], "MODEL: is required", "model.py"),
        (["evaluate", MODEL], "--checkpoint: is required", ".safetensors"),
        (["prune", MODEL, *PRUNE, "--device", "gpu"], "--device gpu: there is no such device here", "cpu"),
        (["prune", MODEL, *PRUNE, "--epochs", "2"], "options: give either steps or epochs, not both", "leave one"),
        (["prune", MODEL, *PRUNE, "--image-size", "3by4"], "--image-size 3by4: is not of this form", "HxW"),
        (["prune", MODEL, *PRUNE, "--seed", "-1"], "--seed -1: should be greater than or equal to 0", "Seed"),
        (["prune", MODEL, *PRUNE, "--mean", "0.5"], "--mean: is given without --std", "--std"),
        (["prune", MODEL, *PRUNE, "-a", "width"], "--model-arg width: is not KEY=VALUE", "--model-arg width=64"),
        (["prune", MODEL, *PRUNE, "--config", "no.toml"], "no.toml: cannot be read", "--config"),
        (["evaluate", MODEL, "-c", "x.safetensors", "--min-accuracy", "97"], "--min-accuracy 97: should be", "0.97"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_options(ntt: Ntt, arguments: list[str], error: str, hint: str) -> None:
    found = refused(ntt, *arguments)
    assert found[0].startswith(error)
    assert hint in found[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", MODEL, "--sparsty", "0.9"], "--sparsity"),
        (["prun", MODEL], "prune"),
        (["prune", MODEL, "extra", *PRUNE], "extra"),
        (["prune", MODEL, "--sparsity"], "--sparsity: needs a value"),
        (["prune", MODEL, "--sparsity", "lots"], "--sparsity lots: is not a number"),
        (["prune", MODEL, *PRUNE, "--method", "magic"], "magic: is not one of ntt, "),
        (["prune", MODEL, "--sparsity", "0.9", "--steps", "1.5"], "--steps 1.5: is not a whole number or auto"),
        (["inspect"], "FILE: is required"),
        (["prune", MODEL, *PRUNE, "--compile=3"], "--compile: takes no value"),
        (["inspect", "a", "b", "c"], "b c': is one argument too many"),
        (
            ["--debug", "prune", MODEL, *PRUNE],
            "--debug: stands before the command hint: options follow it: ntt prune --debug",
        ),
        (["-s", "0.9", "prune", MODEL], "-s: stands before the command"),
        (["--sparsity", "0.9", "evaluate", MODEL], "did you mean --sparsity of ntt prune?"),
        (["prune", MODEL, *PRUNE, "--method", "magnitud"], "did you mean magnitude?"),
        (["prune", MODEL, *PRUNE, "--min-acuracy=0.5"], "did you mean --min-accuracy of ntt evaluate?"),
        (["prune", MODEL, "--sparsty", "0.5"], "did you mean --preset or --sparsity?"),
        (["finetune", MODEL, "--sparsity", "0.5"], "did you mean --sparsity of ntt prune?"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_parsed(ntt: Ntt, arguments: list[str], words: str) -> None:
    before = content()
    result = ntt(*arguments)
    assert (result.code, result.out) == (2, "")
    error, hint = result.err.splitlines()
    assert (error[:7], hint[:6]) == ("error: ", "hint: ")
    assert words in f"{error} {hint}"
    assert content() == before


WRONG = ["", "text", "nan", "inf", "-1", "1e999", "9" * 5000, "\u0661\u0662x", "a\nb", "\x1b[2J"]


@pytest.mark.parametrize("wrong", WRONG, ids=[repr(value)[:12] for value in WRONG])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_value_is_answered_in_the_validators_words(ntt: Ntt, command: str, wrong: str) -> None:
    """Every option of every command; what takes any text is wrong only later."""
    config, told = COMMANDS[command], 0
    for name, field in config.model_fields.items():
        if field.annotation is bool or name in {"model", *config.arguments}:
            continue
        given = ["no_such_model.py"] if "model" in config.arguments else ["x.safetensors", "--model=no_such_model.py"]
        result = ntt(command, *given, f"{flag(name)}={wrong}")
        assert (result.code, result.out) == (2, ""), name
        error, hint = result.err.splitlines()
        assert error.startswith("error: ")
        assert len(error) < 500  # --methods lists what it knows
        assert hint.startswith("hint: ")
        assert "\x1b" not in result.err
        for leaked in ("Value error", "Input", "pydantic", " parse", "Traceback", "valid "):
            assert leaked not in error, name
        told += error.startswith(f"error: {flag(name)} ")
    assert told > 3


@pytest.mark.usefixtures("checkpoints")
def test_an_output_of_another_run(ntt: Ntt) -> None:
    same = ("prune", MODEL, "--sparsity", "0.9", "--steps", "10", "--limit", "20", "--resume")
    assert ntt(*same).code == 0
    error, _ = refused(ntt, *same, "--seed", "3", "-s", "0.8")
    assert error == "sparse.safetensors: is of another run: --seed was 0 and is 3; --sparsity was 0.9 and is 0.8"
    Path(MODEL).write_text(Path(MODEL).read_text() + "\n")
    assert "sparse.safetensors: is of another run: the model's file was " in refused(ntt, *same)[0]
    Path("sparse.safetensors").write_text("mine")
    assert refused(ntt, *same)[0] == "sparse.safetensors: is of another run"


@pytest.mark.usefixtures("checkpoints")
def test_existing_output(ntt: Ntt) -> None:
    error, hint = refused(ntt, "prune", MODEL, *PRUNE)
    assert error == "sparse.safetensors: exists already"
    otherwise = "name another with --output, or overwrite it with --force"
    assert hint == f"if it is of this very run, add --resume; else {otherwise}"
    Path("sparse.report.safetensors").rename("kept")
    assert refused(ntt, "prune", MODEL, *PRUNE)[1] == otherwise  # of no run that could go on
    Path("kept").rename("sparse.report.safetensors")
    Path("sparse.safetensors").unlink()
    assert refused(ntt, "prune", MODEL, *PRUNE)[0] == "sparse.report.safetensors: exists already"
    assert refused(ntt, "finetune", MODEL)[0] == "dense.safetensors: exists already"
    assert refused(ntt, "init", MODEL)[0] == "digits_mlp.py: exists already"


@pytest.mark.parametrize(
    ("output", "error", "hint"),
    [
        (".", ".: is a folder", "sparse.safetensors"),
        ("", ".: is a folder", "sparse.safetensors"),
        ("new/x.safetensors", "new/x.safetensors: its folder does not exist", "mkdir -p new"),
        (f"{MODEL}/x.safetensors", f"{MODEL}/x.safetensors: {MODEL} is not a folder", "--output"),
        ("x.pt", "x.pt: is not named .safetensors", "name it x.safetensors"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_outputs(ntt: Ntt, output: str, error: str, hint: str) -> None:
    for arguments in (["prune", MODEL, *PRUNE], ["finetune", MODEL]):
        found = refused(ntt, *arguments, "--output", output, "--force")
        assert found[0].startswith(error)
        assert hint in found[1]


@pytest.mark.usefixtures("folder")
def test_read_only_folder(ntt: Ntt, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    error, hint = refused(ntt, "prune", MODEL, *PRUNE)
    assert error == ".: cannot be written to: Read-only file system"
    assert "--output" in hint


@pytest.mark.usefixtures("folder")
def test_numbers_that_diverge(ntt: Ntt) -> None:
    error, hint = refused(ntt, "prune", MODEL, *PRUNE, "--learning-rate", "1e30", "-q", code=3)
    assert "no longer finite" in error
    assert "--learning-rate" in hint
    error, hint = refused(ntt, "finetune", MODEL, "--learning-rate", "1e30", "-q", code=3)
    assert "no longer finite" in error
    assert "--learning-rate" in hint


@pytest.mark.usefixtures("folder")
def test_unlabelled_data_and_no_teacher(ntt: Ntt) -> None:
    write_images(broken=False)
    save_network = ["finetune", MODEL, "--epochs", "1", "-q", "-o", "x.safetensors"]
    assert ntt(*save_network).code == 0
    evaluate = ["evaluate", MODEL, "-c", "x.safetensors", "-d", "images"]
    assert "has no labels, and there is no teacher" in refused(ntt, *evaluate)[0]
    assert "has no labels; accuracy" in refused(ntt, *evaluate, "--min-accuracy", "0")[0]
    assert "accuracy" in refused(ntt, *evaluate, "--min-accuracy", "0", "--teacher", "x.safetensors")[0]


@pytest.mark.usefixtures("folder")
def test_debug_adds_the_traceback(ntt: Ntt) -> None:
    result = ntt("prune", write_network("raises"), *PRUNE, "--debug")
    assert result.code == 2
    assert result.out == ""
    assert 'raises.py", line 3, in build_model' in result.err
    assert result.err.endswith("hint: correct the file; --debug shows the traceback\n")
