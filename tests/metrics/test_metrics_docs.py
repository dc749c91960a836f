"""docs/metrics.md has the names of the code, and its examples run; grafana.json asks for names that are there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import run
from places import DOCS
from scrapes import samples

from clipmill.metrics.counts import METRICS

ROW = re.compile(r"^\| `(\w+?)(?:_<(\w+)>)?` \| `(\w+)(?:\{(\w+)\})?` \| (\w+) \| (all|jobs) \| (.*) \|$", re.MULTILINE)


def test_the_page_has_the_table_as_it_stands_in_the_code() -> None:
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    written = [match.groups() for match in ROW.finditer(page)]
    assert written == [
        (m.name, m.label, m.prometheus, m.label, m.kind, "all" if m.everywhere else "jobs", m.help) for m in METRICS
    ]
    assert page.count("\n| `") == len(METRICS) + 3  # and the variables: no line of the table escaped the pattern


def queries(dashboard: dict) -> list[str]:
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return panels + [v["definition"] for v in dashboard["templating"]["list"] if "definition" in v]


def unknown_names(text: str, scrape: dict[tuple[str, ...], float]) -> set[str]:
    asked = {name for query in queries(json.loads(text)) for name in re.findall(r"\bclipmill_\w+", query)}
    assert asked
    return asked - {key[0] for key in scrape}


def run_blocks(language: str, folder: Path, wanted: str = "") -> list[str]:
    """Run the blocks of the page, each as a program of its own; return what they print."""
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    blocks = [one for one in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if wanted in one]
    printed = []
    for block in blocks:
        command = [sys.executable, "-c", block] if language == "python" else ["bash", "-e", "-c", block]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    return printed


def test_the_code_of_the_page_runs(tmp_path) -> None:
    """The totals are those of a process that did nothing before."""
    on_beam, alone = (run_blocks("python", tmp_path, wanted)[0] for wanted in ("apache_beam", "serve_metrics"))
    assert "'rows_in': 1, 'embedded': 1" in on_beam
    assert "\nclipmill_rows_in_total 1.0\n" in alone


@pytest.mark.spark
def test_the_code_of_the_page_runs_on_spark(tmp_path) -> None:
    (on_spark,) = run_blocks("python", tmp_path, "pyspark")
    assert "'rows_in': 2, 'embedded': 1, 'failed_empty': 1" in on_spark


@pytest.fixture(scope="module")
def job_scrape(tmp_path_factory) -> dict[tuple[str, ...], float]:
    """What is scraped of a job of the command line that did little."""
    folder = tmp_path_factory.mktemp("job")
    (folder / "in.jsonl").write_text('{"id": "1", "text": "a"}\n')
    out, file = folder / "out", folder / "m.prom"
    assert run("embed", folder / "in.jsonl", "-o", out, "--model", "fake::", "--metrics", file) == 0
    return samples(file.read_text())


def test_the_dashboard_asks_for_names_that_are_there(job_scrape) -> None:
    text = (DOCS / "grafana.json").read_text(encoding="utf-8")
    assert unknown_names(text, job_scrape) == set()
    for name in (
        "rows_in_total",
        "failed_total",
        "cache_hits_total",
        "batch_rows_bucket",
        "out_of_memory_retries_total",
    ):
        assert f"clipmill_{name}" in text
        misspelt = text.replace(f"clipmill_{name}", f"clipmill_{name[::-1]}")
        assert unknown_names(misspelt, job_scrape) == {f"clipmill_{name[::-1]}"}


def test_the_dashboard_asks_for_labels_that_are_there(job_scrape) -> None:
    text = (DOCS / "grafana.json").read_text(encoding="utf-8")
    labels = {label for query in queries(json.loads(text)) for label in re.findall(r"(\w+)=~|by \((\w+)\)", query)}
    assert {one or other for one, other in labels} == {"dataset", "code", "le"}


def views(text: str) -> dict[str, set[str]]:
    """Return by panel what its queries see where every dataset is chosen: series of jobs, of processes, or both."""
    dashboard = json.loads(text)
    (everything,) = (v["allValue"] for v in dashboard["templating"]["list"] if v["name"] == "dataset")
    agrees = {
        "=~": lambda value, wanted: re.fullmatch(wanted.replace("$dataset", everything), value) is not None,
        "!=": lambda value, wanted: value != wanted,
        "=": lambda value, wanted: value == wanted,
    }
    found: dict[str, set[str]] = {}
    for panel in dashboard["panels"]:
        for query in (target["expr"] for target in panel["targets"]):
            selectors = re.findall(r"clipmill_\w+(\{[^}]*\})?", query)
            assert selectors
            for selector in selectors:
                asked = re.findall(r'dataset(=~|!=|=)"([^"]*)"', selector)
                for view, value in (("jobs", "/data/out"), ("processes", "")):  # a label that is absent is ""
                    if all(agrees[how](value, wanted) for how, wanted in asked):
                        found.setdefault(panel["title"], set()).add(view)
    return found


def test_no_panel_counts_the_same_work_twice() -> None:
    """Where jobs and their workers are scraped, each row is in the numbers of both."""
    text = (DOCS / "grafana.json").read_text(encoding="utf-8")
    seen = views(text)
    assert len(seen) == sum(bool(panel["targets"]) for panel in json.loads(text)["panels"])  # no title twice
    assert {frozenset(one) for one in seen.values()} == {frozenset({"jobs"}), frozenset({"processes"})}
    assert seen["Shards finished"] == seen["Rows in"] == {"jobs"}
    everything = views(text.replace('"allValue": ".+"', '"allValue": ".*"'))
    assert everything["Rows in"] == {"jobs", "processes"} and everything["Shards finished"] == {"jobs"}


def test_the_dashboard_can_be_imported() -> None:
    """Every panel and target takes its data source from the variable; ids and places are its own."""
    dashboard = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    sources = [panel["datasource"]["uid"] for panel in dashboard["panels"]]
    sources += [target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert set(sources) == {"${datasource}"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert {m.prometheus for m in METRICS if m.everywhere} <= set(
        re.findall(r"clipmill_\w+?(?=_bucket|\{)", str(dashboard))
    )
