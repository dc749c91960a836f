"""The first use of a model: what is said while it takes long, and `clipmill models --prepare`, which does it ahead."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.models.exporting import export_model
from clipmill.models.progress import observed_by, observer
from clipmill.models.runtimes import graphs, store
from clipmill.models.runtimes.store import Store
from clipmill.models.towers import find_source, open_clip
from clipmill.pipelines import first_use
from clipmill.pipelines.bars import Bars
from clipmill.pipelines.cli import cli

COMPILING = ["compiling the image graph for this processor", "compiling the text graph for this processor"]
CHECKING = ["computing vectors in float32 to check against"]


class Steps(Bars):
    """An observer that keeps the steps."""

    def __init__(self, is_shown: bool = False) -> None:
        super().__init__()
        self.is_shown = is_shown
        self.steps: list[str] = []
        self.running: list[str] = []

    def step_started(self, step: str) -> None:
        self.steps.append(step)
        self.running.append(step)

    def step_ended(self, step: str) -> None:
        self.running.remove(step)


@contextmanager
def loaded_steps(**options):
    """Load a model in an empty registry, and return the steps that it took."""
    unload_all()
    with observed_by(seen := Steps()):
        load_encoder("demo", device="cpu", **options)
    assert not seen.running
    yield seen.steps
    unload_all()


@pytest.fixture
def demo_cache(tmp_path, monkeypatch):
    """An empty cache for one test, with the demo as a model whose graphs have to be made."""
    monkeypatch.setenv("CLIPMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(open_clip, "_graphs_beside", lambda weights: None)
    unload_all()
    yield tmp_path / "cache"
    unload_all()


def prepare(*arguments: str):
    """Run `clipmill models --prepare`; return what it printed for programs."""
    done = CliRunner().invoke(cli, ["models", "--prepare", *arguments, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)


def test_a_prepared_model_is_warm(quick_maker, demo_cache) -> None:
    """What a first load does is done, where it would be: a later load has nothing left to do."""
    options = {"runtime": "openvino", "precision": "fp32"}
    found = prepare("demo", "--runtime", "openvino", "--precision", "fp32")
    assert (found["runtime"], found["precision"], found["made"]) == ("openvino", "fp32", True)
    folder = Path(found["directory"])
    assert folder.parent == demo_cache / "graphs"
    assert found["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert len(list(folder.rglob("*.blob"))) == 2 and found["checked_cosine"] > 0.999
    with loaded_steps(**options) as steps:
        assert steps == []
    again = prepare("demo", "--runtime", "openvino", "--precision", "fp32")
    assert not again["made"] and again["directory"] == found["directory"]


@pytest.mark.parametrize("cpus", [1, 2])
def test_an_unprepared_model_takes_steps(quick_maker, demo_cache, cpus) -> None:
    """The control of the test above. A graph is compiled once for each number of calls at once that is measured."""
    with loaded_steps(runtime="openvino", precision="fp32", cpus=cpus) as steps:
        assert steps[:1] == CHECKING and sorted(steps[1:]) == sorted(COMPILING * cpus)


def test_auto_is_prepared_as_it_is_loaded(quick_maker, demo_cache) -> None:
    found = prepare("demo")
    with loaded_steps() as steps:
        assert steps == []
    assert (found["runtime"], found["precision"]) == tuple(
        load_encoder("demo", device="cpu").resolved[name] for name in ("runtime", "precision")
    )


def test_the_cache_of_the_command_is_prepared(quick_maker, demo_cache, tmp_path) -> None:
    found = prepare("demo", "--cache-dir", str(tmp_path / "other"), "--runtime", "onnx", "--precision", "fp32")
    assert Path(found["directory"]).is_relative_to(tmp_path / "other")
    assert not (demo_cache / "graphs").exists()


def test_torch_has_no_graphs(quick_maker, demo_cache) -> None:
    found = prepare("demo", "--runtime", "torch", "--precision", "fp32")
    assert found["directory"] is None and not found["made"] and found["bytes"] == 0


def test_an_exported_directory_is_compiled(quick_maker, demo_cache, tmp_path) -> None:
    """Its graphs are used where they are; what OpenVINO compiles of them goes into the cache."""
    export_model(EncoderSpec("demo", runtime="onnx"), tmp_path / "exported")
    found = prepare(f"onnx:{tmp_path / 'exported'}", "--runtime", "openvino", "--precision", "fp32")
    assert found["directory"] == str(tmp_path / "exported") and not found["made"]
    assert len([path for path in demo_cache.rglob("*.blob")]) == 2
    assert found["bytes"] > sum(path.stat().st_size for path in (tmp_path / "exported").iterdir())


def test_people_read_what_was_prepared(quick_maker, demo_cache) -> None:
    command = ["models", "--prepare", "demo", "--runtime", "onnx", "--precision", "fp32"]
    first, second = (CliRunner().invoke(cli, command).stdout for _ in range(2))
    folder = Store(find_source(EncoderSpec("demo")), None).graphs("float").folder
    assert "demo runs with onnx fp32 on cpu: graphs made, checked and compiled" in first
    assert "there already" in second and all(str(folder) in text for text in (first, second))


@pytest.mark.parametrize("name", ["fake::dim=8", "custom:module:factory"])
def test_models_without_graphs_have_nothing_to_prepare(name: str) -> None:
    done = CliRunner().invoke(cli, ["models", "--prepare", name])
    assert done.exit_code and "nothing to prepare" in str(done.exception)


def test_a_cache_that_keeps_nothing_is_refused(demo_cache, monkeypatch) -> None:
    monkeypatch.setattr(store, "is_writable", lambda folder: False)
    done = CliRunner().invoke(cli, ["models", "--prepare", "demo"])
    assert done.exit_code and str(demo_cache) in str(done.exception)


@pytest.mark.parametrize(
    "given",
    [["--prepare", "demo", "pattern"], ["--prepare", "demo", "--download", "demo"], ["--runtime", "onnx"]],
    ids=["pattern", "download", "runtime"],
)
def test_options_without_effect_are_refused(given: list[str]) -> None:
    assert CliRunner().invoke(cli, ["models", *given]).exit_code == 2


@pytest.mark.parametrize("is_shown", [True, False])
def test_the_log_says_that_graphs_are_made(quick_maker, demo_cache, caplog, is_shown: bool) -> None:
    """Before and after, with the model and its towers; as a warning where nothing else tells who waits."""
    with caplog.at_level(logging.INFO, "clipmill"), observed_by(Steps(is_shown)):
        load_encoder("demo", device="cpu", runtime="onnx", precision="fp32")
    (before,) = [one for one in caplog.records if one.getMessage().startswith("making float graphs of demo")]
    (after,) = [one for one in caplog.records if one.getMessage().startswith("made float graphs of demo in")]
    assert "image and text" in before.getMessage()
    assert before.levelno == (logging.INFO if is_shown else logging.WARNING) and after.levelno == logging.INFO
    assert before.created <= after.created


def test_each_graph_is_a_step(demo_cache, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(graphs, "_trace", lambda *_: None)
    monkeypatch.setattr(graphs, "prepend_normalisation", lambda *_: None)
    with observed_by(seen := Steps()):
        graphs.make_graphs({"text": None, "image": None}, find_source(EncoderSpec("demo")).frontend, tmp_path)
    assert seen.steps == ["making the text graph", "making the image graph"] and not seen.running


def test_a_step_ends_when_it_fails(demo_cache, monkeypatch, tmp_path) -> None:
    def fail(*_):
        raise RuntimeError("no graph")

    monkeypatch.setattr(graphs, "_trace", fail)
    with observed_by(seen := Steps()), pytest.raises(RuntimeError):
        graphs.make_graphs({"text": None}, find_source(EncoderSpec("demo")).frontend, tmp_path)
    assert seen.steps and not seen.running


@pytest.mark.parametrize("is_terminal", [True, False])
def test_commands_show_steps_on_a_terminal_only(monkeypatch, is_terminal: bool) -> None:
    """In a pipe the log tells."""
    observers = []
    monkeypatch.setattr(first_use, "load_encoder", lambda spec: observers.append(observer()))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    first_use.load_shown(EncoderSpec("demo"))
    assert [isinstance(one, Bars) for one in observers] == [is_terminal]
