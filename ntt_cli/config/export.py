"""Options of `ntt export`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ntt_cli.config.fields import NAMED, Group, unread
from ntt_cli.config.options import DataOptions, ModelOptions, WeightsOptions

PROGRAMS = ("pt2", "onnx")
"""The forms that hold the computation too, not the weights alone."""

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
        " timm:NAME. Required for pt2 and onnx.",
        NAMED,
    )
    to: Annotated[
        Literal["packed", "torch", "pt2", "onnx"],
        Field(
            description="packed: mask bits and kept values, compressed; every command takes it as it is."
            " torch: NAME_orig and NAME_mask, as torch.nn.utils.prune has them."
            " pt2: a program of torch.export, which runs without the code of the model."
            " onnx: the same for onnxruntime and others; needs ntt-cli[onnx]."
        ),
        Group.OUTPUT,
    ]
    output: str | None = Group.OUTPUT.option(
        None, "The file to write. Default: beside the checkpoint, like sparse.packed.safetensors and sparse.pt2."
    )
    dtype: Literal["float16", "bfloat16"] | None = Group.OUTPUT.option(
        None, "Round weights to this type. Default: their own."
    )
    force: bool = Group.OUTPUT.option(False, "Overwrite the output if it exists.")

    @model_validator(mode="after")
    def _what_the_form_reads(self) -> Self:
        if self.to not in PROGRAMS:
            of_network = ModelOptions.model_fields | WeightsOptions.model_fields | DataOptions.model_fields
            for name in of_network:
                if self.gives(name):
                    raise unread(self, name, f"--to {self.to} writes the weights alone, and does not read it")
        return self
