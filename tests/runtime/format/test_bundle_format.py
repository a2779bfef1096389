"""docs/bundle-format.md agrees with the parser."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from edgekit_runtime.format import archive, consistency, extents, manifest_json, strict_json
from edgekit_runtime.format import manifest as records

RECORDS = {
    "input": records.InputSpec,
    "preprocessing": records.Preprocessing,
    "output": records.OutputSpec,
    "postprocessing": records.Postprocessing,
    "variant": records.Variant,
    "binding": records.TensorBinding,
    "joined": records.JoinedBinding,
    "requirements": records.Requirements,
    "accuracy": records.Accuracy,
    "golden": records.Golden,
    "file": records.FileRecord,
}


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    """The specification."""
    return (repository / "docs" / "bundle-format.md").read_text(encoding="utf-8")


def keys(page: str, title: str) -> dict[str, str]:
    """Return the keys of a record's table with their defaults."""
    section = page.partition(f"\n### {title}\n")[2].partition("\n#")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE))


def test_the_top_level_has_the_documented_keys(page: str, manifest: records.Manifest) -> None:
    assert list(keys(page, "manifest")) == list(json.loads(manifest_json.manifest_to_json(manifest)))


@pytest.mark.parametrize("title", RECORDS)
def test_a_record_has_the_documented_keys_and_needs_those_without_default(page: str, title: str) -> None:
    documented = keys(page, title)
    assert list(documented) == [field.name for field in fields(RECORDS[title])]
    needed = {f.name for f in fields(RECORDS[title]) if f.default is MISSING and f.default_factory is MISSING}
    assert {key for key, default in documented.items() if default == "—"} == needed


def test_every_table_has_a_record(page: str) -> None:
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == {"manifest", *RECORDS}


def test_the_example_parses_and_uses_every_key(page: str) -> None:
    example = page.partition("```json\n")[2].partition("```")[0]
    parsed = manifest_json.parse_manifest(example.encode())
    assert manifest_json.parse_manifest(manifest_json.manifest_to_json(parsed)) == parsed
    document = json.loads(example)
    assert list(document) == list(keys(page, "manifest"))
    assert list(document["variants"][0]) == list(keys(page, "variant"))


def test_the_documented_limits_are_those_of_the_code(page: str) -> None:
    assert records.MAX_FILES == 1024
    assert (manifest_json.MAX_TOLERANCE, "at most 10^9" in page) == (1e9, True)
    assert consistency.MAX_TOTAL_BYTES == 2**32 - 2**24
    assert strict_json.MAX_MANIFEST_BYTES == 2**20
    assert extents.MAX_SIGNATURE_BYTES == 2**20
    assert consistency.MAX_ELEMENTS == 2**31
    assert (archive.ALIGNMENT_BYTES, archive.MAX_PATH_BYTES, strict_json.MAX_DEPTH) == (64, 240, 24)
    for said in ("1024 listed files", "2^32 − 2^24", "2^20 bytes", "at most 2^31", "multiple of 64"):
        assert said in page
    assert "at most 240 characters" in page
    assert "at most 24 levels deep" in page
    assert f"`{' '.join(records.DTYPES)}`" in page
