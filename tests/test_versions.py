"""`make test-versions` names tests that exist, and keeps the rows of environments that ran elsewhere."""

from __future__ import annotations

import pytest
from places import DOCS, ROOT
from versions import ENVIRONMENTS, PAGE, SHOWN, rewritten


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_tests_of_an_environment_exist(name: str) -> None:
    files = [ROOT / path for environment in ENVIRONMENTS.values() for path in environment.tests]
    assert [path for path in files if not path.is_file()] == []
    there = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [test for test in ENVIRONMENTS[name].lacks if f"def {test}(" not in there] == []


def test_rows_that_ran_elsewhere_are_kept() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert PAGE == DOCS / "versions.md"
    versions = dict.fromkeys(SHOWN, "1.2")
    one = {"environment": "newest", "python": "3.11", "versions": versions, "passed": 1234, "failed": 0, "date": "x"}
    first = rewritten(page, [one])
    assert "| `newest`: the newest of everything | 3.11 | 1.2 |" in first and "| 1,234 | 0 | x |" in first
    other = rewritten(first, [{**one, "environment": "spark-4.1"}])
    assert "`newest`" in other and "`spark-4.1`" in other
    assert rewritten(other, []) == other
    assert other.partition("<!-- versions: end -->")[2] == page.partition("<!-- versions: end -->")[2]
