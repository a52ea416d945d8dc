"""Options of `ntt export`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ntt_cli.config.fields import NAMED, Group, ReadWhen, unread
from ntt_cli.config.options import DataOptions, ModelOptions, WeightsOptions

PROGRAMS = ("pt2", "onnx", "coreml")
"""The forms that hold the computation too, not the weights alone."""

HUB_FOLDER = "hub-folder"
COREML = "coreml"

BATCH_SIZES = (1, 7)
"""The numbers of samples on which a written program is compared with the network."""


class ExportConfig(ModelOptions, WeightsOptions, DataOptions):
    """`ntt export`."""

    arguments: ClassVar[tuple[str, ...]] = ("checkpoint",)

    checkpoint: Annotated[
        str, Field(description="The checkpoint: a .safetensors or .pt file, or a folder with one."), Group.MODEL
    ]
    model: str = Group.MODEL.option(
        "",
        "The network of the checkpoint: model.py, model.py:factory, package.module:factory, torchvision:NAME or"
        " timm:NAME. Required for pt2, onnx and coreml; for hub-folder, a model.py is copied.",
        NAMED,
    )
    to: Annotated[
        Literal["packed", "torch", "pt2", "onnx", "coreml", "hub-folder"],
        Field(
            description="packed: mask bits and kept values, compressed; every command takes it as it is."
            " torch: NAME_orig and NAME_mask, as torch.nn.utils.prune has them."
            " pt2: a program of torch.export, which runs without the code of the model."
            " onnx: the same for onnxruntime and others; needs ntt-cli[onnx]."
            " coreml: the same for Apple's systems, without its zeros; needs ntt-cli[coreml]."
            " hub-folder: weights, a model card and model.py, ready for huggingface_hub.upload_folder."
        ),
        Group.OUTPUT,
    ]
    output: str | None = Group.OUTPUT.option(
        None,
        "The file or folder to write. Default: beside the checkpoint, like sparse.packed.safetensors, sparse.pt2 and"
        " sparse-hub.",
    )
    dtype: Literal["float16", "bfloat16"] | None = Group.OUTPUT.option(
        None, "Round weights to this type. Default: their own."
    )
    license: str | None = Group.OUTPUT.option(
        None,
        "With --to hub-folder: the licence of the weights, by the short name that hubs have for it, like mit.",
        ReadWhen(lambda config: config.to == HUB_FOLDER, "--to {to} writes no card"),
        pattern=r"^[a-z0-9][a-z0-9.+-]*$",
    )
    force: bool = Group.OUTPUT.option(False, "Overwrite the output if it exists.")

    @model_validator(mode="after")
    def _what_the_form_reads(self) -> Self:
        if self.to == HUB_FOLDER and self.dtype:
            raise unread(self, "dtype", f"--to {self.to} writes the weights as they are")
        if self.to == COREML and self.dtype == "bfloat16":
            raise unread(self, "dtype", "Core ML has no such type")
        if self.to not in PROGRAMS:
            of_network = ModelOptions.model_fields | WeightsOptions.model_fields | DataOptions.model_fields
            builds = {"model", "model_arg"} if self.to == HUB_FOLDER else set()
            for name in of_network.keys() - builds:
                if self.gives(name):
                    raise unread(self, name, f"--to {self.to} writes the weights alone, and does not read it")
        if self.model_arg and not self.model:
            raise unread(self, "model_arg", "no network is named")
        return self
