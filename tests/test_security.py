"""SECURITY.md says what the code does: its limits are the code's, and its options exist."""

from __future__ import annotations

import dataclasses
import importlib
import re

import pytest
from places import ROOT

from clipmill import EncoderSpec
from clipmill.media.fetch_policy import FetchPolicy

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", PAGE, re.MULTILINE)
FIELDS = {field.name: field.default for field in dataclasses.fields(EncoderSpec)}
GUARDS = {name for name in FIELDS if re.match(r"max_|allow_|uri_|fetch_", name)}
"""Options that guard against untrusted content, all of which the page must have."""
_NOT_LIMITS = {"max_batch_rows", "max_text_tokens"}


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value) or "none"
    if name.lower().endswith("_bytes"):
        assert isinstance(value, int) and value % 2**20 == 0
        return f"{value // 2**20} MiB"
    seconds = " s" if name.endswith(("_s", "_seconds")) else ""
    return f"{value:,g}{seconds}" if isinstance(value, float) else f"{value:,}{seconds}"


@pytest.mark.parametrize(("name", "default"), ROWS)
def test_limits_are_those_of_the_code(name: str, default: str) -> None:
    if "." in name:
        module, _, constant = name.rpartition(".")
        value = getattr(importlib.import_module(f"clipmill.{module}"), constant)
    else:
        value = FIELDS[name]
    assert _shown(name, value) == default


def test_every_guard_is_on_the_page() -> None:
    assert {name for name, _ in ROWS} >= GUARDS - _NOT_LIMITS


def test_a_fetch_has_the_limits_of_the_options() -> None:
    """Also where no spec sets them: in reports."""
    policy = FetchPolicy()
    assert policy.schemes == FIELDS["uri_schemes"] and policy.buckets == FIELDS["allow_buckets"]
    assert not policy.allow_local_files and not policy.allow_private_addresses
    assert (policy.max_bytes, policy.timeout_s) == (FIELDS["max_fetch_bytes"], FIELDS["fetch_timeout_s"])
    assert policy.max_redirects == FIELDS["max_redirects"]


def test_the_page_is_linked_where_people_look() -> None:
    for page in ("README.md", "docs/formats.md", "CONTRIBUTING.md"):
        assert "SECURITY.md)" in (ROOT / page).read_text(encoding="utf-8"), page
