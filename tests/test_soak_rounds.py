"""The table of soaks keeps what others ran."""

from __future__ import annotations

import re

from places import DOCS
from soak_rounds import BEGIN, END, Soak, rewritten

SOAKS = {name: Soak(f"what {name} does", 4, lambda draw, folder: {}) for name in ("first", "second", "third")}


def done(name: str, number: int = 0, **figures: int) -> dict:
    return {"soak": name, "round": number, "seconds": 5, "date": f"2026-01-0{number + 1}", "figures": figures}


def rows(page: str | None) -> list[str]:
    assert page is not None
    assert page.startswith("before\n") and page.endswith("\nafter\n")
    return re.findall(r"^\| `.*$", page, re.MULTILINE)


EMPTY = f"before\n{BEGIN}\n{END}\nafter\n"


def test_rows_are_sums_and_peaks():
    rounds = [done("second", 0, jobs=2, **{"peak MiB": 7}), done("second", 1, jobs=1000, **{"peak MiB": 5})]
    assert rows(rewritten(EMPTY, 1, SOAKS, ["second"], rounds)) == [
        "| `second` | what second does | 2 of 4 | 10 | 1,002 jobs, 7 peak MiB | 2026-01-02 |"
    ]


def test_rows_of_other_machines_stay():
    before = rewritten(EMPTY, 1, SOAKS, SOAKS, [done("first", jobs=1), done("third", jobs=3)])
    there = rows(before)
    # here, the second was run now, the first long ago, and the third never
    page = rewritten(before, 1, SOAKS, ["second"], [done("first", jobs=9), done("second", jobs=2)])
    assert rows(page) == [there[0], "| `second` | what second does | 1 of 4 | 5 | 2 jobs | 2026-01-01 |", there[1]]
    assert rewritten(page, 1, SOAKS, [], []) == page


def test_what_was_run_again_is_replaced():
    before = rewritten(EMPTY, 1, SOAKS, SOAKS, [done("first", jobs=1)])
    assert "| 9 jobs |" in rows(rewritten(before, 1, SOAKS, ["first"], [done("first", jobs=9)]))[0]


def test_a_table_is_of_one_seed():
    before = rewritten(EMPTY, 1, SOAKS, SOAKS, [done("first", jobs=1)])
    assert rewritten(before, 2, SOAKS, SOAKS, [done("first", jobs=9)]) is None


def test_the_table_of_the_page_is_read_whole():
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    assert (
        rewritten(page, 1, {name: SOAKS["first"] for name in re.findall(r"^\| `([^`]+)`", page, re.M)}, [], []) == page
    )
