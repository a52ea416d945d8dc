"""What the results of all commands have in common, and the first keys of what `--json` prints."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, SerializerFunctionWrapHandler, model_serializer

SCHEMA_VERSION: Literal[1] = 1
"""Of the documents that `--json` prints. It rises if a key goes, changes its name or its type; not for a new key."""

OMITTED = "omitted"
"""Field metadata: nothing is written where the field is `None` or empty, so that files from before it stay the same to
the byte."""


class Omitting(BaseModel):
    """Base of what is written without its empty fields, where these say so by `OMITTED`."""

    # pydantic 2.10 would look the names of an annotation up where the class is derived.
    @model_serializer(mode="wrap", return_type=dict[str, Any])
    def _without_nothing(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        omitted = {name for name, field in type(self).model_fields.items() if OMITTED in field.metadata}
        return {name: value for name, value in written(self).items() if name not in omitted or value not in (None, {})}


class Summary(Omitting):
    """Base of all results."""

    model_config = ConfigDict(frozen=True)


class Document(Summary):
    """Base of what a command prints with `--json`; `document` names its schema in `docs/schemas`."""

    document: ClassVar[str]


class Heading(Summary):
    """The first keys of every document. `seconds` is how long the command took."""

    schema_version: Literal[1] = SCHEMA_VERSION
    document: str
    ntt_version: str
    seconds: FiniteFloat


class ErrorSummary(Summary):
    """An error: what was wrong, where, what to do about it, and the exit code of the command."""

    where: str
    what: str
    hint: str
    exit_code: int


class ErrorDocument(Document):
    """What every command prints with `--json` in the place of a result, if it has none."""

    document = "error"

    error: ErrorSummary
