"""The command line: exit codes, clear errors without a stack trace, nothing half-written that looks whole."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from list_kinds import every_list
from pictures import encode
from rich.console import Console

from clipmill.datasets import read_dataset, read_failures
from clipmill.datasets.formats.base import FORMATS
from clipmill.models.support_matrix import GRAPH_RUNTIMES, PRECISIONS
from clipmill.pipelines import console
from clipmill.pipelines.bars import Bars
from clipmill.pipelines.cli import cli, main
from clipmill.pipelines.engines import root_cause
from clipmill.pipelines.summary import summarise_dataset, summary


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three pictures and a broken one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode(np.full((4, 5 + number, 3), 40 * number, np.uint8)))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def _clipmill(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clipmill", *command], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed"], "nothing to embed"),
        (["embed", "pictures"], "missing option --output"),
        (["embed", "pictures", "-o", "out", "--modell", "demo"], "did you mean --model?"),
        (["embed", "pictures", "-o", "out", "--batch-size", "4"], "is called --max-batch-rows here"),
        (["embed", "pictures", "-o", "out", "--projct=x"], "did you mean --project?"),
        (["embed", "pictures", "-o", "out", "--engine", "spark", "--runner=x"], "no such option: --runner"),
        (["embed", "pictures", "-o", "out", "--model", "ViT-B-99"], "nearest: ViT-B-32"),
        (["embed", "pictures", "-o", "out", "--max-failures", "many"], "neither a number of rows nor a percentage"),
        (["embed", "pictures", "-o", "out", "--conf", "a=b"], "--conf is an option of --engine spark"),
        (["embed", "pictures", "-o", "out", "--column", "photo"], "not of the form NAME=KIND"),
        (["embed", "nowhere", "-o", "out", "--model", "fake::"], "nowhere"),
        (["embed", "pictures", "-o", "/proc/nothing/out", "--model", "fake::"], "/proc/nothing/out"),
        (["embed", "--image", "nowhere.jpg", "--model", "fake::"], "not_found"),
        (["embed", "x", "--text", "a", "--model", "fake::"], "take no INPUT"),
        (["embed", "--text", "a", "--model", "fake::", "-o", "out"], "--output has no effect with --text"),
        (["models", "ViT-B-31"], "nearest: "),
        (["frobnicate"], "No such command"),
    ],
    ids=lambda value: " ".join(value[:6]) if isinstance(value, list) else None,
)
def test_wrong_usage_is_said_and_is_2(arguments, message, pictures, tmp_path, monkeypatch, capsys) -> None:
    """What cannot work is refused before anything runs."""
    monkeypatch.chdir(tmp_path)
    assert _run(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("part-*"))


def test_a_folder_becomes_a_dataset(pictures, tmp_path, capsys) -> None:
    """Vectors by path; the broken file is a failure beside them; the summary says so."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", "fake::dim=4") == 0
    table = read_dataset(str(tmp_path / "out"))
    assert table.column("id").to_pylist() == [str(pictures / f"{n}.png") for n in range(3)]
    assert [cell[1].as_py() for cell in table.column("embedding")] == [5, 6, 7]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert (failure["row"], failure["code"]) == (str(pictures / "broken.png"), "undecodable")
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines()[:5]]
    rows = [["rows", "in", "4"], ["rows", "written", "3"], ["rows", "failed", "1"]]
    assert lines == [*rows, ["embedded", "3"], ["failed:", "undecodable", "1"]]
    assert (tmp_path / "out" / "_SUCCESS").exists()


def test_output_that_exists_is_refused(pictures, tmp_path, capsys) -> None:
    """Unless --overwrite; and a folder that is no dataset is never deleted."""
    arguments = ["embed", pictures, "-o", tmp_path / "out", "--model", "fake::"]
    assert [_run(*arguments), _run(*arguments), _run(*arguments, "--overwrite")] == [0, 2, 0]
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert _run("embed", pictures, "-o", tmp_path / "mine", "--model", "fake::", "--overwrite") == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_an_old_dataset_survives_a_job_that_cannot_start(pictures, tmp_path, capsys) -> None:
    """--overwrite deletes nothing before the model is loaded."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", "fake::dim=4") == 0
    code = _run("embed", pictures, "-o", tmp_path / "out", "--model", f"ViT-B-32::{tmp_path}/no.pt", "--overwrite")
    assert code == 1 and "no weights at" in capsys.readouterr().err
    assert len(read_dataset(str(tmp_path / "out"))) == 3 and (tmp_path / "out" / "_SUCCESS").exists()


def test_output_inside_the_input_is_refused(pictures, capsys) -> None:
    """The next job would take the dataset for pictures."""
    assert _run("embed", pictures, "-o", pictures / "vectors", "--model", "fake::") == 2
    assert "is inside the input folder" in capsys.readouterr().err


def test_a_job_of_which_all_failed_is_no_success(tmp_path, capsys) -> None:
    """Unless it is allowed to."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no picture")
    arguments = ["embed", tmp_path / "in", "-o", tmp_path / "out", "--model", "fake::", "--overwrite"]
    assert [_run(*arguments), _run(*arguments, "--max-failures", "100%")] == [1, 0]
    assert "all 1 rows failed" in capsys.readouterr().err


def test_file_names_that_are_not_utf8(tmp_path) -> None:
    """Such a file is a row like any other."""
    (tmp_path / "in").mkdir()
    for name in (b"lat\xe9.png", b"good.png"):
        path = os.path.join(os.fsencode(tmp_path / "in"), name)
        Path(os.fsdecode(path)).write_bytes(encode(np.ones((2, 2, 3), np.uint8)))
    assert _run("embed", tmp_path / "in", "-o", tmp_path / "out", "--model", "fake::dim=2") == 0
    assert len(read_dataset(str(tmp_path / "out"))) == 2


@pytest.mark.parametrize(("limit", "code"), [("0", 1), ("1", 0), ("24%", 1), ("25%", 0)])
def test_max_failures_decides_the_exit_code(limit, code, pictures, tmp_path, capsys) -> None:
    """One of four failed; all output is kept either way."""
    arguments = ["embed", pictures, "-o", tmp_path / "out", "--model", "fake::", "--max-failures", limit]
    assert _run(*arguments) == code
    assert len(read_dataset(str(tmp_path / "out"))) == 3
    assert ("--max-failures" in capsys.readouterr().err) == bool(code)


def test_fail_fast_ends_the_job(pictures, tmp_path, capsys) -> None:
    """The first failure is the error; no file looks whole."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", "fake::", "--fail-fast") == 1
    assert "undecodable" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("part-*")) and not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_dataset_that_is_not_complete_is_said(pictures, tmp_path, capsys) -> None:
    """A job that did not end left rows; the summary warns of it."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", "fake::", "--rows-per-shard", "1") == 0
    (tmp_path / "out" / "_SUCCESS").unlink()
    next((tmp_path / "out" / "_manifest").iterdir()).unlink()
    assert _run("summary", tmp_path / "out") == 0
    assert "is not complete: 3 of 4 shards are there" in capsys.readouterr().err


def test_failures_run_again(pictures, tmp_path) -> None:
    """The failures of a job are an input; what was mended succeeds."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", "fake::dim=4") == 0
    (pictures / "broken.png").write_bytes(encode(np.zeros((9, 9, 3), np.uint8)))
    failures = sorted((tmp_path / "out" / "_failures").glob("*.jsonl"))
    assert _run("embed", *failures, "-o", tmp_path / "again", "--model", "fake::dim=4", "--allow-local-files") == 0
    assert read_dataset(str(tmp_path / "again")).column("embedding")[0].as_py()[:2] == [9, 9]


def test_columns_of_a_table(tmp_path) -> None:
    """Rows keep their columns; a row with one bad column keeps its other vector and is in the failures too."""
    lines = [{"id": "a", "caption": "hi", "url": "data:,", "n": 1}, {"id": "b", "caption": None, "url": None, "n": 2}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = ["--column", "caption=text", "--column", "url=image"]
    assert _run("embed", tmp_path / "rows.jsonl", "-o", tmp_path / "out", "--model", "fake::dim=3", *columns) == 0
    table = read_dataset(str(tmp_path / "out"))
    assert table.column("caption_embedding").to_pylist() == [[2, 104, 105], None]
    assert table.column("url_embedding").to_pylist() == [None, None]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert (failure["row"], failure["column"], failure["code"]) == ("a", "url", "empty")


def test_vectors_of_the_command_line(pictures, capsys) -> None:
    """--text and --image print one JSON array each."""
    assert _run("embed", "--text", "hi", "--image", pictures / "0.png", "--model", "fake::dim=3") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [[2, 104, 105], [4, 5, 0]]


def test_beams_options_pass_through_checked(pictures, tmp_path) -> None:
    """Both spellings of an option reach Beam; what follows -- goes there unchecked."""
    arguments = ["embed", pictures, "-o", tmp_path / "out", "--model", "fake::"]
    beam = ["--runner", "FnApiRunner", "--direct_num_workers=1", "--", "--not_known_to_anybody=1"]
    assert _run(*arguments, *beam) == 0
    assert len(read_dataset(str(tmp_path / "out"))) == 3


def test_a_model_that_cannot_load_is_1(pictures, tmp_path, capsys) -> None:
    """The job fails with the reason from the worker, without a stack trace."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", f"ViT-B-32::{tmp_path}/no.pt") == 1
    said = capsys.readouterr().err
    assert "no weights at" in said and "Traceback" not in said
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_job_that_could_not_start_is_tried_again_as_it_is(pictures, tmp_path) -> None:
    """What a failed start leaves is no reason to ask for --overwrite."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", f"ViT-B-32::{tmp_path}/no.pt") == 1
    assert (tmp_path / "out" / "_job.json").exists()
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", "fake::dim=4") == 0
    assert len(read_dataset(str(tmp_path / "out"))) == 3


def test_spark_without_java_is_said_in_one_line(pictures, tmp_path) -> None:
    """No stack of Spark's, and a second try needs no --overwrite."""
    command = ["embed", str(pictures), "-o", str(tmp_path / "out"), "--model", "fake::", "--engine", "spark"]
    environment = {**os.environ, "JAVA_HOME": str(tmp_path)}
    for _ in range(2):
        done = _clipmill(command, environment)
        assert done.returncode == 1
        assert "Error: the Spark job failed: " in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) < 5


SLOW = """
import os, pathlib, time
from clipmill.encoders.testing import FakeModel

class Slow(FakeModel):
    def encode(self, modality, payloads):
        (pathlib.Path(__file__).parent / "working" / str(os.getpid())).touch()
        time.sleep(120)
        return super().encode(modality, payloads)

def make():
    return Slow({})
"""


def test_a_worker_process_that_dies_ends_the_job(tmp_path) -> None:
    """Beam's local runner would wait for it for ever; the other worker ends too."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "working").mkdir()
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n' * 8)
    command = ["embed", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out"), "--model", "custom:slow:make"]
    command += ["--rows-per-shard", "1", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = [sys.executable, "-m", "clipmill", *command]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as job:
        workers = _wait_for(lambda: [int(p.name) for p in (tmp_path / "working").iterdir()], 2)
        os.kill(workers[0], signal.SIGKILL)
        _, said = job.communicate(timeout=300)
    assert job.returncode == 1
    assert (
        "Error: a worker process died (SIGKILL: perhaps the machine ran out of memory)" in said
        and "Traceback" not in said
    )
    _wait_for(lambda: [pid for pid in workers if not _is_alive(pid)], 2)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def _wait_for(look: Callable[[], list[int]], number: int) -> list[int]:
    until = time.monotonic() + 300  # a minute is not enough on a machine with much else to do
    while len(found := look()) < number:
        assert time.monotonic() < until, found
        time.sleep(0.1)
    return found


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended may wait for somebody to ask how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_full_disk_is_said_and_leaves_nothing_that_looks_whole(pictures, tmp_path) -> None:
    """Files of more than 300 bytes cannot be written: exit code 1, the path, no part file."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from clipmill.pipelines import engines, jobs as embed; from clipmill.datasets.formats import shard_writer\n"
        "from clipmill.transforms import EmbedShards; from clipmill.pipelines.cli import main\n"
        "begin = embed.start_job\n"
        "def limited(*a, **k):\n"
        "    begun = begin(*a, **k); resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))\n"
        "    return begun\n"
        "embed.start_job = limited\n"
        f"main(['embed', {str(pictures)!r}, '-o', {str(tmp_path / 'out')!r}, '--model', 'fake::dim=4'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=os.sep)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and str(tmp_path / "out") in done.stderr
    assert not list((tmp_path / "out").rglob("part-*")) and not (tmp_path / "out" / "_SUCCESS").exists()


def test_spark_writes_what_beam_writes(pictures, tmp_path, spark) -> None:
    """One command on two engines: the same rows, vectors and failures."""
    for engine in ("beam", "spark"):
        assert _run("embed", pictures, "-o", tmp_path / engine, "--model", "demo", "--engine", engine) == 0
    beam, sparks = (read_dataset(str(tmp_path / engine)) for engine in ("beam", "spark"))
    assert beam.schema.equals(sparks.schema, check_metadata=True)
    assert beam.column("id").to_pylist() == sparks.column("id").to_pylist()
    ours, theirs = (np.array(table.column("embedding").to_pylist()) for table in (beam, sparks))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    failures = [[f["code"] for f in read_failures(str(tmp_path / engine))] for engine in ("beam", "spark")]
    assert failures == [["undecodable"], ["undecodable"]]


def test_json_for_programs(pictures, tmp_path, capsys) -> None:
    """Summary, models and doctor print JSON that parses."""
    assert _run("embed", pictures, "-o", tmp_path / "out", "--model", "fake::", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["input_rows"], found["embedded"], found["failed"]) == (4, 3, {"undecodable": 1})
    assert _run("models", "ViT-B-32::openai", "--json") == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert (model["dim"], model["image_size"], model["parameters"], model["licence"]) == (512, 224, 151_277_313, "MIT")
    assert _run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: runtime["problem"] for name, runtime in found["runtimes"].items()} == dict.fromkeys(
        ("torch", "onnx", "openvino")
    )
    assert all("fp32" in runtime["precisions"]["cpu"] for runtime in found["runtimes"].values())
    assert "int8" in found["runtimes"]["onnx"]["precisions"]["cpu"]
    assert "CPUExecutionProvider" in found["runtimes"]["onnx"]["providers"]
    assert found["cache"] == {"directory": os.environ["CLIPMILL_CACHE"], "writable": True}


def test_summary_counts_kinds_and_attributes() -> None:
    """The two tables of docarray's summary."""
    from clipmill import Document

    documents = [Document(text="a"), Document(text="b"), Document(uri="x.png", embedding=np.zeros(3, np.float32))]
    found = summary(documents)
    assert found.length == 3
    assert found.kinds == {("text", "id"): 2, ("uri", "id", "embedding"): 1}
    text, embedding = found.attributes["text"], found.attributes["embedding"]
    assert (len(text.digests), text.present, text.types) == (2, 2, {"str"})
    assert (len(embedding.digests), embedding.present, embedding.types) == (1, 1, {"ndarray"})
    shown = Console(file=io.StringIO(), width=200)
    shown.print(found)
    said = shown.file.getvalue()
    assert "2 Documents have attributes" in said and "1 Document has attributes" in said


def test_the_cause_of_an_engines_error_is_found() -> None:
    """Engines wrap a worker's error in pages of their own."""
    lines = ("An exception was thrown:", "Traceback:", "  File x", "clipmill.WeightsError: no weights", " at org.x")
    wrapped = "\n".join(lines)
    assert root_cause(RuntimeError(wrapped)) == "clipmill.WeightsError: no weights"


@every_list
def test_a_summary_shows_vectors_in_lists_of_every_kind(tmp_path: Path, list_of) -> None:
    vectors = pa.array([[1.0, 2.0], [2.0, 1.0]], list_of(pa.float32()))
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": vectors}), tmp_path / "v.parquet")
    assert summarise_dataset(str(tmp_path)).attributes["embedding"].types == {"ndarray"}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_downloads_are_shown_as_bars_on_a_terminal_only(monkeypatch, tmp_path, is_terminal) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, force_terminal=is_terminal))
    with Bars() as bars:
        bars.started("[/b]weights.pt", 0, 100)
        bars.advanced("[/b]weights.pt", 100)
        bars.finished("[/b]weights.pt", tmp_path / "weights.pt")
        bars.step_started("making the [/b]image graph")
        bars.step_ended("making the [/b]image graph")
    assert bars.is_shown == is_terminal and bars.files == [str(tmp_path / "weights.pt")]
    assert ("[/b]weights.pt" in shown.getvalue()) == is_terminal
    assert ("making the [/b]image graph" in shown.getvalue()) == is_terminal


def test_nothing_is_drawn_for_a_model_that_was_used_before(monkeypatch, tmp_path) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, force_terminal=True))
    with Bars() as bars:
        bars.finished("weights.pt", tmp_path / "weights.pt")
    assert not shown.getvalue()


def test_the_choices_of_flags_are_those_of_the_code() -> None:
    """The command line writes them out where an import would slow its start."""

    def choices(command: str, flag: str) -> tuple[str, ...]:
        (option,) = [one for one in cli.get_command(None, command).params if one.name == flag]
        return tuple(option.type.choices)

    assert choices("embed", "format") == FORMATS
    assert choices("export", "runtime") == GRAPH_RUNTIMES
    assert choices("export", "precision") == PRECISIONS[1:]
