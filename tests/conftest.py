"""Shapes in signatures are checked by beartype in every call that the tests make."""

import contextlib
import gc
import multiprocessing
import os
import signal
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

# Of this process and of those that tests start: two workers with two threads each would wait for each other on two
# cores; a hanging Python says where when it is ended; and a compiler's processes would outlive the test.
os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402

from tests.shapes import checked  # noqa: E402

MATHEMATICS = [
    "data.normalise",
    "kernels.backward",
    "kernels.exact",
    "kernels.product",
    "kernels.spectrum",
    "masks.allocation",
    "masks.masks",
    "masks.rounds",
    "masks.schedule",
    "masks.zeros",
    "methods.grasp",
    "methods.logit_snip",
    "methods.snip",
    "methods.ntk_sap",
    "methods.obc",
    "methods.sparsegpt",
    "methods.ntt.affinity",
    "methods.ntt.compiled",
    "methods.ntt.objective",
    "methods.ntt.saliency",
    "methods.ntt.step",
    "methods.synflow",
    "methods.wanda",
    "methods.magnitude",
    "methods.random",
    "networks.batch_norm",
    "networks.copying",
    "networks.flops",
    "networks.fragile",
    "networks.functional",
    "networks.initialise",
    "networks.layer_calls",
    "networks.layer_inputs",
    "networks.multiplied",
    "networks.outputs",
    "networks.prunable",
    "networks.second_order",
    "tasks.metrics",
    "training.step",
]
"""Modules that know no files, clock or global randomness."""

install_import_hook([f"ntt_cli.{name}" for name in MATHEMATICS], f"{checked.__module__}.{checked.__name__}")

from ntt_cli.config import DataOptions, built_in_methods, method_class, methods  # noqa: E402
from ntt_cli.data.inputs import Inputs  # noqa: E402
from ntt_cli.methods.ntt import plan, settings  # noqa: E402
from ntt_cli.networks.normalisation import open_inputs  # noqa: E402
from ntt_cli.runs.sources import AS_NAMED  # noqa: E402
from tests.parts import CPU, loaded  # noqa: E402
from tests.processes import FORKS  # noqa: E402

WHOLE_RUNS = {
    "api",
    "cases",
    "cli",
    "comparison",
    "data/test_several_inputs.py",
    "evaluation",
    "methods/test_base.py",
    "methods/test_heads.py",
    "programs",
    "pruning",
    "reliability",
    "runs",
    "runtime",
    "sweep",
    "tasks/test_tasks.py",
    "test_ci_example.py",
    "test_docs.py",
    "timing",
    "training/test_finetune.py",
}
"""Tests of whole runs, two to three times as long with the checks of shapes, which the tests of the parts have."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    path = item.path.resolve().relative_to(Path(__file__).resolve().parent)
    whole_run = not WHOLE_RUNS.isdisjoint({path.as_posix(), path.parts[0]})
    jaxtyping.config.update("jaxtyping_disable", whole_run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """When a worker of pytest-xdist has ended, by the limit of a test too, end what its tests have started."""
    mark = f"PYTEST_XDIST_WORKER={node.gateway.id}".encode()
    run = f"PYTEST_XDIST_TESTRUNUID={node.workerinput['testrunuid']}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if {mark, run} <= set(path.read_bytes().split(b"\0")):
                os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.fixture(autouse=True)
def _no_process_left() -> Generator[None]:
    """A worker process that is left behind holds the pipes of others open."""
    before = set(multiprocessing.active_children())
    yield
    if set(multiprocessing.active_children()) - before:
        gc.collect()  # a DataLoader of the test's own, which an error holds, ends its workers only now
    assert not set(multiprocessing.active_children()) - before


@pytest.fixture(autouse=True)
def _no_more_methods() -> Generator[None]:
    """What a test registers is forgotten after it."""
    yield
    for name in set(methods._REGISTERED) - set(built_in_methods()):
        del methods._REGISTERED[name]


FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """Debian's dataset-fashion-mnist; where CI asks for it, its absence is a failure."""
    if not FASHION_MNIST.is_dir():
        message = "Fashion-MNIST is missing: apt-get install dataset-fashion-mnist"
        if os.environ.get("NTT_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)  # never in CI, which sets the variable
    return FASHION_MNIST


@pytest.fixture(scope="session", autouse=True)
def _forward_mode() -> None:
    """Load torch's forward mode, which warns of its own use of `torch.jit`; the command line ignores that too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have methods of 100 rounds take 4, where any number shows the same; tests of the methods themselves take all."""
    for name in built_in_methods():
        method = method_class(name)
        monkeypatch.setattr(method, "rounds", min(method.rounds, 4))


@pytest.fixture
def short_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--steps auto` masks reach their density in 10 steps, not 500, and 60 are the most, not 3,000."""
    monkeypatch.setattr(plan, "AUTO_HORIZON", 20)
    monkeypatch.setattr(settings, "STEPS", 60)


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers of a comparison be forks of a process that has torch loaded; else each loads it anew."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORKS)


@pytest.fixture
def digits(folder: Path) -> Inputs:
    options = DataOptions(data="digits")
    samples = AS_NAMED.load_samples(options, loaded("plain"), split="train")
    return open_inputs(samples, device=CPU, known=None, on_event=lambda _: None)
