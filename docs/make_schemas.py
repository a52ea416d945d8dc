"""Write `docs/schemas`: a JSON Schema of each document of `--json`, from its class. `--check` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ntt_cli import results
from ntt_cli.comparison.results import ComparePlan, CompareReport
from ntt_cli.documents import OMITTED, Document, ErrorDocument, Heading
from ntt_cli.files.inspect import Inspection, Verification
from ntt_cli.timing.results import BenchReport

FOLDER = Path(__file__).parent / "schemas"
DOCUMENTS: tuple[type[Document], ...] = (
    results.PruneReport,
    results.PrunePlan,
    results.FinetuneReport,
    results.EvaluateReport,
    CompareReport,
    ComparePlan,
    results.PageReport,
    Inspection,
    Verification,
    results.ExportReport,
    results.ProgramReport,
    results.PackageReport,
    results.HubReport,
    BenchReport,
    results.ModelFile,
    ErrorDocument,
)


class Printed(GenerateJsonSchema):
    """What is printed: all fields but the empty ones that are left out, and null for a number that is not finite."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """The schema of an object."""
        fields = schema["cls"].model_fields
        made = super().model_schema(schema)
        return made | {"required": [name for name in fields if OMITTED not in fields[name].metadata]}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """The schema of a number."""
        made = super().float_schema(schema)
        return made if schema.get("allow_inf_nan") is False else self.get_flattened_anyof([made, {"type": "null"}])

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """The schema of an object with any keys; pydantic 2.10 does not say so where values may be anything, too."""
        return {"additionalProperties": True} | super().dict_schema(schema)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """The schema of a field with a default, which a reader of documents does not need to know."""
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No titles: they would repeat the names."""
        return False


def schema_of(kind: type[Document]) -> dict[str, Any]:
    """The schema of one document, its heading included."""
    heading, own = (each.model_json_schema(schema_generator=Printed) for each in (Heading, kind))
    named = {"document": {"const": kind.document, "type": "string"}}
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": kind.document,
        "description": own["description"],
        "type": "object",
        "properties": heading["properties"] | named | own["properties"],
        "required": [*heading["required"], *own["required"]],
    } | {key: own[key] for key in own if key == "$defs"}


def text_of(kind: type[Document]) -> str:
    """The file of one schema."""
    text = json.dumps(schema_of(kind), indent=2, ensure_ascii=False) + "\n"
    return text.replace("`None`", "`null`")


if __name__ == "__main__":
    made = {FOLDER / f"{kind.document}.json": text_of(kind) for kind in DOCUMENTS}
    if "--check" in sys.argv:
        there = {path: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
        same = there == {path: json.loads(text) for path, text in made.items()}
        sys.exit(0 if same else "docs/schemas is out of date: make docs")
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for path, text in made.items():
        path.write_text(text)
