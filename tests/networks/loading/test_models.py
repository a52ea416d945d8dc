from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from ntt_cli.config import ModelOptions
from ntt_cli.errors import ModelError
from ntt_cli.files.metadata import MeanStd
from ntt_cli.networks.loading.models import LoadedModel, load_model

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3, bias=True):
        super().__init__()
        self.fc = nn.Linear(4, width, bias=bias)

    def forward(self, x):
        return self.fc(x)
"""
MODEL = NET + "\ndef build_model(width=3, bias=True):\n    return Net(width, bias)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(source: str, *arguments: str, seed: int = 0) -> LoadedModel:
    return load_model(ModelOptions(model=source, model_arg=arguments), seed=seed)


def failure(source: str, *arguments: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(source, *arguments)
    assert caught.value.exit_code == 2
    return caught.value


def weight(loaded: LoadedModel) -> torch.Tensor:
    return loaded.module.get_parameter("fc.weight").detach()


def test_file(folder: Path) -> None:
    Path("model.py").write_text(MODEL)
    loaded = load("model.py")
    assert weight(loaded).shape == (3, 4)
    assert loaded.source == "model.py"
    assert loaded.sha256 == hashlib.sha256(MODEL.encode()).hexdigest()
    assert (loaded.data, loaded.input_shape) == (None, None)


@pytest.mark.parametrize("name", ["build_model", "Net", "make"])
def test_file_with_factory(folder: Path, name: str) -> None:
    Path("model.py").write_text(MODEL + "make = lambda: Net(5)\n")
    assert weight(load(f"model.py:{name}")).shape == (5 if name == "make" else 3, 4)


def test_file_with_neighbour(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text(NET)
    (tmp_path / "model.py").write_text("def build_model():\n    from parts import Net\n    return Net()\n")
    assert weight(load(str(tmp_path / "model.py"))).shape == (3, 4)


def test_importable(folder: Path) -> None:
    loaded = load("torch.nn:Linear", "in_features=4", "out_features=2")
    assert isinstance(loaded.module, nn.Linear)
    assert (loaded.source, loaded.sha256, loaded.data, loaded.input_shape) == ("torch.nn:Linear", None, None, None)


def test_importable_from_the_working_folder(folder: Path) -> None:
    Path("ntt_test_nets").mkdir()
    Path("ntt_test_nets/small.py").write_text(MODEL)
    assert weight(load("ntt_test_nets.small:build_model", "width=6")).shape == (6, 4)


def test_torchvision() -> None:
    loaded = load("torchvision:squeezenet1_1", "num_classes=7")
    assert (loaded.sha256, loaded.data, loaded.input_shape) == (None, None, (3, 224, 224))
    with torch.no_grad():
        assert loaded.module.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_seed_decides_the_weights_and_nothing_else(folder: Path) -> None:
    # Both what is drawn at import and what is drawn in the factory.
    Path("model.py").write_text(MODEL + "fixed = Net()\ndef early():\n    return fixed\n")
    before = torch.get_rng_state()
    for source in ("model.py", "model.py:early"):
        assert torch.equal(weight(load(source, seed=3)), weight(load(source, seed=3)))
        assert not torch.equal(weight(load(source, seed=3)), weight(load(source, seed=4)))
    assert torch.equal(torch.get_rng_state(), before)


def test_arguments_are_typed(folder: Path) -> None:
    Path("model.py").write_text(
        "from torch import nn\n"
        "def build_model(**given):\n"
        "    net = nn.Identity()\n"
        "    net.given = given\n"
        "    return net\n"
    )
    arguments = ("i=3", "f=1e-3", "b=False", "n=None", "t=(1, 2)", "s=relu", "q='3'", "e=a=b", "empty=")
    assert load("model.py", *arguments).module.given == {
        "i": 3,
        "f": 1e-3,
        "b": False,
        "n": None,
        "t": (1, 2),
        "s": "relu",
        "q": "3",
        "e": "a=b",
        "empty": "",
    }


@pytest.mark.parametrize("item", ["width", "=3", "wi dth=3", ""])
def test_malformed_argument(folder: Path, item: str) -> None:
    Path("model.py").write_text(MODEL)
    error = failure("model.py", item)
    assert str(error) == f"--model-arg {item}: is not KEY=VALUE"
    assert "--model-arg width=64" in error.hint


def test_argument_given_twice(folder: Path) -> None:
    Path("model.py").write_text(MODEL)
    assert "width is given twice" in str(failure("model.py", "width=3", "width=4"))


def test_unknown_argument(folder: Path) -> None:
    Path("model.py").write_text(MODEL)
    error = failure("model.py", "widht=3")
    assert str(error) == "model.py:build_model: got an unexpected keyword argument 'widht'"
    assert "width, bias" in error.hint


def test_factory_without_arguments(folder: Path) -> None:
    Path("model.py").write_text(MODEL + "def plain():\n    return Net()\n")
    assert failure("model.py:plain", "width=3").hint == "it takes no --model-arg"


def test_missing_argument(folder: Path) -> None:
    error = failure("torch.nn:Linear", "in_features=4")
    assert "missing a required argument: 'out_features'" in str(error)
    assert "in_features, out_features" in error.hint


def test_string_where_a_truth_value_belongs(folder: Path) -> None:
    Path("model.py").write_text(MODEL)
    error = failure("model.py", "bias=false")
    assert "would count as True" in str(error)
    assert error.hint == "write bias=True or bias=False"
    assert load("model.py", "bias=False").module.fc.bias is None


@pytest.mark.parametrize(
    ("data", "beside", "expected"),
    [
        ("digits", None, "digits"),
        ("digits", "digits", "digits"),  # a name stays a name
        ("images/", "images", "nets/images"),
        ("samples.npz", "samples.npz", "nets/samples.npz"),
        ("data.py:train", "data.py", "nets/data.py:train"),
        ("./images", None, "./images"),
        ("noise:16", None, "noise:16"),
    ],
)
def test_data_beside_the_model(folder: Path, data: str, beside: str | None, expected: str) -> None:
    Path("nets").mkdir()
    if beside is not None:
        (Path("nets") / beside).mkdir()
    Path("nets/model.py").write_text(MODEL + f"DATA = {data!r}\n")
    assert load("nets/model.py").data == expected


def test_absolute_data(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL + f"DATA = {str(tmp_path)!r}\n")
    assert load(str(tmp_path / "model.py")).data == str(tmp_path)


@pytest.mark.parametrize("data", ["3", "''", "['digits']", f"[{', '.join(['0'] * 500)}]"])
def test_bad_data(folder: Path, data: str) -> None:
    Path("model.py").write_text(MODEL + f"DATA = {data}\n")
    error = failure("model.py")
    assert str(error) == f"model.py: DATA is {data:.99}, not a string"
    assert 'DATA = "digits"' in error.hint


def test_input_shape(folder: Path) -> None:
    Path("model.py").write_text(MODEL + "INPUT_SHAPE = (4,)\n")
    assert load("model.py").input_shape == (4,)


@pytest.mark.parametrize("shape", ["4", "[4]", "()", "(4.0,)", "(0,)", "(True,)", "'4x4'"])
def test_bad_input_shape(folder: Path, shape: str) -> None:
    Path("model.py").write_text(MODEL + f"INPUT_SHAPE = {shape}\n")
    error = failure("model.py")
    assert str(error) == f"model.py: INPUT_SHAPE is {shape}, not a tuple of positive whole numbers"
    assert "INPUT_SHAPE = (1, 28, 28)" in error.hint


def test_missing_file(folder: Path) -> None:
    Path("lenet.py").write_text(MODEL)
    assert "did you mean lenet.py?" in failure("lenett.py").hint


def test_name_without_suffix(folder: Path) -> None:
    Path("lenet.py").write_text(MODEL)
    assert failure("lenet").hint == "did you mean lenet.py?"
    assert failure(f"{folder}/lenet:Net").hint == f"did you mean {folder}/lenet.py?"


@pytest.mark.parametrize("source", ["resnet", "", ":", "lenet:", "../..:Net"])
def test_no_model_at_all(folder: Path, source: str) -> None:
    error = failure(source)
    assert "torchvision:NAME" in error.hint or "is a folder" in str(error)


def test_folder(folder: Path) -> None:
    Path("nets").mkdir()
    assert str(failure("nets")) == "nets: is a folder, not a Python file"
    Path("nets.py").mkdir()
    assert "is a folder" in str(failure("nets.py"))


def test_file_of_another_kind(folder: Path) -> None:
    Path("dense.safetensors").write_bytes(b"")
    error = failure("dense.safetensors")
    assert str(error) == "dense.safetensors: is not a Python file"
    assert "--weights" in error.hint


def test_the_last_colon_after_py_separates(folder: Path) -> None:
    path = folder / "run_12:30:05.py" / "model.py"
    path.parent.mkdir()
    path.write_text(MODEL)
    for source in (f"{path}", f"{path}:Net"):
        assert list(load(source).module.state_dict()) == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("source", ["C:\\nets\\model.py", "C:\\nets\\model.py:Net", "run_12:30:05/model.py"])
def test_a_path_with_a_colon_that_is_not_there(source: str) -> None:
    error = failure(source)
    assert re.search("there is no (such file|folder)", error.what)


def test_nothing_after_the_colon(folder: Path) -> None:
    Path("model.py").write_text(MODEL)
    error = failure("model.py:")
    assert "names no factory after the colon" in str(error)
    assert error.hint == "write model.py or model.py:factory"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import ntt_no_such_package", "ModuleNotFoundError: No module named 'ntt_no_such_package' (line 1)"),
        ("1 / 0", "ZeroDivisionError: division by zero (line 1)"),
        ("def build_model(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "called sys.exit(0) (line 1)"),
    ],
)
def test_failing_file(folder: Path, line: str, message: str) -> None:
    Path("model.py").write_text(line)
    assert message in str(failure("model.py"))


def test_failing_factory(folder: Path) -> None:
    Path("model.py").write_text("def build_model():\n    x = 3\n    raise ValueError(f'no {x}')\n")
    assert str(failure("model.py")) == "model.py: raised ValueError: no 3 (line 3)"


def test_exiting_factory(folder: Path) -> None:
    Path("model.py").write_text("def build_model():\n    raise SystemExit(0)\n")
    assert "called sys.exit(0) (line 2)" in str(failure("model.py"))


def test_what_user_code_prints_goes_to_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("model.py").write_text(
        "print('importing')\n"
        "from torch import nn\n"
        "def build_model():\n"
        "    print('building')\n"
        "    return nn.Identity()\n"
    )
    load("model.py")
    assert capsys.readouterr() == ("", "importing\nbuilding\n")


def test_no_build_model(folder: Path) -> None:
    Path("model.py").write_text("from torch.nn import Identity\nx = 1\n")
    error = failure("model.py")
    assert str(error) == "model.py: has no build_model()"
    assert error.hint == "define build_model() to return the network"


def test_one_candidate_is_not_guessed(folder: Path) -> None:
    Path("model.py").write_text(NET)
    error = failure("model.py")
    assert str(error) == "model.py: has no build_model()"
    assert error.hint == "name model.py:Net"


def test_several_candidates(folder: Path) -> None:
    Path("model.py").write_text(
        NET
        + "def small():\n    return Net(2)\n"
        + "def _hidden():\n    pass\n"
        + "def helper(x):\n    return x\n"
        + "class Other:\n    pass\n"
    )
    error = failure("model.py")
    assert str(error) == "model.py: has no build_model() and several candidates"
    assert error.hint == "name model.py:Net or model.py:small"
    assert failure("model.py", "width=3").hint == "name model.py:Net"


def test_missing_factory(folder: Path) -> None:
    Path("model.py").write_text(MODEL)
    error = failure("model.py:net")
    assert str(error) == "model.py: defines no net"
    assert error.hint == "did you mean model.py:Net?"
    assert failure("model.py:zzz").hint == "name a function or class as model.py:NAME"
    assert failure("model.py:NTE").hint == "did you mean model.py:Net?"
    assert failure("torch.nn:Linaer").hint == "did you mean torch.nn:Linear?"


@pytest.mark.parametrize(("value", "kind"), [("Net()", "Net"), ("3", "int"), ("{}", "dict")])
def test_no_factory(folder: Path, value: str, kind: str) -> None:
    Path("model.py").write_text(NET + f"net = {value}\n")
    error = failure("model.py:net")
    assert str(error).startswith(f"model.py:net: is a value of type {kind}, not a function or class")
    assert "--seed" in error.hint


@pytest.mark.parametrize(
    ("value", "kind"),
    [("None", "NoneType"), ("(Net(), 3)", "tuple"), ("Net", "type"), ("Net().state_dict()", "OrderedDict")],
)
def test_no_module(folder: Path, value: str, kind: str) -> None:
    Path("model.py").write_text(NET + f"def build_model():\n    return {value}\n")
    error = failure("model.py")
    assert str(error) == f"model.py:build_model: returned a value of type {kind}, not a torch.nn.Module"
    assert "return the network itself" in error.hint


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("value", "what", "hint"),
    [
        (
            "torch.jit.script(nn.Linear(2, 3))",
            "the network is TorchScript, which cannot be turned into a function",
            "made of",
        ),
        (
            "nn.Sequential(torch.jit.script(nn.ReLU()))",
            "0 is TorchScript, which cannot be turned into a function",
            "made of",
        ),
        ("nn.DataParallel(nn.Linear(2, 3))", "the network is wrapped in DataParallel", ".module"),
        ("torch.compile(nn.Linear(2, 3))", "the network is compiled already", "--compile"),
        ("nn.Linear(2, 3, device='meta')", "weight has no values: it is on the meta device", "on the CPU"),
    ],
)
def test_networks_that_cannot_be_taken_apart(folder: Path, value: str, what: str, hint: str) -> None:
    Path("model.py").write_text(f"import torch\nfrom torch import nn\n\ndef build_model():\n    return {value}\n")
    error = failure("model.py")
    assert str(error) == f"model.py:build_model: {what}"
    assert hint in error.hint


def test_package_that_is_not_there(folder: Path) -> None:
    error = failure("ntt_no_such_package.nets:Net")
    assert "No module named 'ntt_no_such_package'" in str(error)
    assert "install ntt_no_such_package" in error.hint


def test_unknown_torchvision_model() -> None:
    error = failure("torchvision:ResNet8")
    assert str(error) == "torchvision:ResNet8: torchvision has no such classifier"
    assert "resnet18" in error.hint
    assert "list_models()" in failure("torchvision:").hint
    assert "no such classifier" in str(failure("torchvision:fcn_resnet50"))  # would download its backbone


@pytest.mark.parametrize("item", ["weights=DEFAULT", "pretrained=True"])
def test_torchvision_weights_are_not_downloaded(item: str) -> None:
    error = failure("torchvision:resnet18", item)
    assert "not downloaded" in str(error)
    assert "--weights" in error.hint


def test_unknown_torchvision_argument() -> None:
    error = failure("torchvision:resnet18", "widht=3")
    assert "unexpected keyword argument 'widht'" in str(error)
    assert "torchvision.models.resnet18" in error.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MEAN, STD = 0.5, 2", MeanStd((0.5,), (2.0,))),
        ("MEAN, STD = (0.5, 0.4), [0.25]", MeanStd((0.5, 0.4), (0.25, 0.25))),
        ("", None),
    ],
)
def test_a_file_may_name_its_normalisation(folder: Path, text: str, expected: MeanStd | None) -> None:
    Path("model.py").write_text(f"{MODEL}\n{text}\n")
    assert load("model.py").mean_std == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("MEAN = 0.5", "STD is None, not a number or a tuple of numbers"),
        ("MEAN, STD = '0.5', 1", "MEAN is '0.5', not a number or a tuple of numbers"),
        ("MEAN, STD = 0, True", "STD is True, not a number or a tuple of numbers"),
        ("MEAN, STD = 0, 0", "MEAN and STD do not fit: a deviation is not above 0"),
        ("MEAN, STD = float('inf'), 1", "MEAN and STD do not fit: a number is not finite"),
        ("MEAN, STD = 10**400, 1", "MEAN and STD do not fit: int too large to convert to float"),
        ("MEAN, STD = (1, 2), (1, 2, 3)", "MEAN and STD do not fit: there are 2 means and 3 deviations"),
        ("MEAN, STD = (), ()", "MEAN and STD do not fit: there are 0 means and 0 deviations"),
    ],
)
def test_what_is_no_normalisation(folder: Path, text: str, what: str) -> None:
    Path("model.py").write_text(f"{MODEL}\n{text}\n")
    error = failure("model.py")
    assert str(error).startswith(f"model.py: {what}")
    assert "MEAN = (0.485, 0.456, 0.406)" in error.hint


@pytest.mark.parametrize("name", ["model.py", "./model.py", "model.py:build_model", "../{}/model.py"])
def test_its_name_does_not_depend_on_how_its_path_was_typed(folder: Path, name: str) -> None:
    Path("model.py").write_text(MODEL)
    assert load(name.format(folder.name)).source == "model.py"
    assert load(f"{folder}/model.py:Net").source == "model.py:Net"


def test_networks_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in, which has the three names that are used."""

    class Timm(ModuleType):
        @staticmethod
        def list_models() -> list[str]:
            return ["tiny_net"]

        @staticmethod
        def create_model(name: str, *, pretrained: bool = False, num_classes: int = 10) -> nn.Module:
            net = nn.Linear(4, num_classes)
            net.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.5,), "std": (0.25,)}  # type: ignore[assignment]
            return net

    monkeypatch.setitem(sys.modules, "timm", Timm("timm"))
    plain = load_model(ModelOptions(model="timm:tiny_net", model_arg=("num_classes=3",)), seed=0)
    assert (plain.source, plain.input_shape, plain.trained, plain.mean_std) == ("timm:tiny_net", (3, 8, 8), False, None)
    assert plain.module.out_features == 3
    trained = load_model(ModelOptions(model="timm:tiny_net.in1k", model_arg=("pretrained=true",)), seed=0)
    assert trained.trained
    assert trained.mean_std is not None
    assert trained.mean_std.mean == (0.5,)
    for model, arguments, what, hint in (
        ("timm:tinynet", (), "timm has no such network", "the nearest are tiny_net"),
        ("timm:tiny_net", ("wide=2",), "raised TypeError", "mend --model-arg"),
    ):
        with pytest.raises(ModelError) as caught:
            load_model(ModelOptions(model=model, model_arg=arguments), seed=0)
        assert what in str(caught.value)
        assert hint in caught.value.hint
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match="timm is not installed") as caught:
        load_model(ModelOptions(model="timm:tiny_net"), seed=0)
    assert caught.value.hint == "pip install timm"
