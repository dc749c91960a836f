"""The benchmark's own arithmetic, and that its contenders do the same work."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import bench_compare
import numpy as np
import plain
import pytest
import speed
import workplace
from click.testing import CliRunner
from goals import GOALS, goal_table
from open_clip import get_model_config
from ours import calls_of
from overhead import profiled
from PIL import Image
from pyspark.sql import SparkSession
from speed import Size, measure_images, measure_large, measure_texts
from turns import Contender, check_same, rate_table, ratio, take_turns
from weights import drawn_module, write_safetensors
from workload import captions, large_photographs, photographs
from workplace import Workplace, send_modules

from clipmill.encoders import load_encoder

SMALL = "ViT-S-32-alt"

# --- turns and ratios ------------------------------------------------------------------------------------------------


def test_everybody_runs_once_in_each_round_and_the_first_round_does_not_count() -> None:
    now, ran = [0.0], []

    def contender(name: str, seconds: list[float]) -> Contender:
        def run() -> None:
            ran.append(name)
            now[0] += seconds.pop(0)

        def warm() -> None:
            ran.append(f"warm {name}")
            now[0] += 1000

        return Contender(name, 10, run, warm)

    contenders = [contender("A", [100, 5, 2]), contender("B", [100, 1, 2])]
    rates = take_turns(contenders, 2, clock=lambda: now[0])
    assert rates == {"A": [2, 5], "B": [10, 5]}
    assert ran == ["warm A", "A", "warm B", "B"] * 3


def test_a_ratio_is_the_median_of_each_rounds_own() -> None:
    """Not the ratio of medians, which a busy minute moves: here 3."""
    rates = {"base": [1, 10, 100], "own": [2, 30, 200]}
    assert ratio(rates, "own", "base") == 2
    assert rate_table(rates, "rows", ["base"])[2:] == ["| base | 10.0 | 1.00 |", "| own | 30.0 | 2.00 |"]


@pytest.mark.parametrize("spoilt", ["rows", "equal", "nan"])
def test_contenders_that_embed_something_else_are_refused(spoilt: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(8, 32)) + 100  # much alike, as with random weights
    check_same({"A": vectors, "B": vectors[:5] + 0.01, "alone": vectors})
    wrong = {"rows": vectors[::-1], "equal": vectors[[0] * 8], "nan": vectors * np.nan}[spoilt]
    with pytest.raises(RuntimeError, match="A and B embed the same rows differently"):
        check_same({"A": vectors, "B": wrong})


def test_goals_are_judged_where_their_part_was_measured() -> None:
    rates = {"B": [1.0, 1.0], "core, auto": [2.9, 2.9]}
    big = [goal for goal in GOALS if goal.part == "big"]
    missed = goal_table({"big": rates})[2:]
    assert len(missed) == len(big) == 1
    assert "| 2.90 | 3 | **not reached** |" in missed[0]
    assert "| 3.00 | 3 | reached |" in goal_table({"big": {**rates, "core, auto": [3.0, 3.0]}})[2]
    assert goal_table({}) == goal_table({"first": {}}) and len(goal_table({})) == 2


# --- what is measured ------------------------------------------------------------------------------------------------


def test_data_is_what_the_tables_say() -> None:
    for file in photographs(4):
        assert 480 <= max(Image.open(io.BytesIO(file)).size) <= 900
    first, second = large_photographs(2)
    assert Image.open(io.BytesIO(first)).size == (4000, 3000) and first != second
    assert [first] == large_photographs(1)
    texts = captions(200)
    assert len(set(texts)) == 200 and {len(text.split()) for text in texts} == set(range(5, 16))
    assert {len(text.split()) for text in captions(20, words=(60, 60))} == {60}


def test_the_model_alone_is_given_what_the_core_gives_it() -> None:
    encoder = load_encoder("demo", device="cpu", runtime="torch", precision="fp32", max_cache_bytes=0)
    texts = captions(100)
    calls = calls_of(encoder, "text", texts)
    assert sum(len(payloads) for _, payloads in calls) == 100
    alone = np.concatenate([encoder._loaded.model.encode(modality, payloads) for modality, payloads in calls])
    made = encoder.embed_texts(texts)
    order = np.argsort(made[:, 0])
    np.testing.assert_allclose(alone[np.argsort(alone[:, 0])], made[order], rtol=1e-4, atol=1e-5)
    assert "encode" not in vars(encoder._loaded.model)


def test_a_profile_sees_the_threads_that_are_started() -> None:
    def busy() -> int:
        return sum(n for n in range(1000))

    def run() -> None:
        thread = threading.Thread(target=busy)
        thread.start()
        thread.join()

    functions = {name for _, _, name in profiled(run).stats}
    assert {"busy", "join"} <= functions
    assert threading.getprofile() is None


# --- all contenders --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """A small model, and the tests' Spark."""
    for module in (workplace, speed):
        monkeypatch.setattr(module, "ARCHITECTURE", SMALL)
    write_safetensors(drawn_module(get_model_config(SMALL), quick_gelu=False), tmp_path / f"{SMALL}.safetensors")
    send_modules(spark)
    place = Workplace(tmp_path)
    place._session = spark
    yield place
    place._frames.clear()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let contenders take one turn, compare their vectors with A's, and note who had it."""
    names: list[str] = []

    def once(contenders: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
        vectors = {}
        for contender in contenders:
            if contender.name != "D":  # whose function is compared below; its workers take long to load
                names.append(contender.name)
                vectors[contender.name] = contender.run()
        check_same({name: matrix for name, matrix in vectors.items() if matrix is not None})
        return {contender.name: [1.0] for contender in contenders}

    monkeypatch.setattr(speed, "take_turns", once)
    return names


def goals_of(*parts: str) -> int:
    return sum(goal.part in parts for goal in GOALS)


def test_every_way_to_embed_photographs_runs(place: Workplace, ran: list[str]) -> None:
    """A goal whose contender has another name is a KeyError."""
    measured = measure_images(place, Size(slow=4, fast=8, rounds=1, batches=0))
    assert len(goal_table({"speed": measured})) == goals_of("speed") + 2
    assert set(ran) >= {"A", "B", "C", "Beam, auto", "Spark, auto"}


def test_every_way_to_embed_texts_and_large_photographs_runs(place: Workplace, ran: list[str]) -> None:
    measured = {"texts": measure_texts(place, Size(slow=4, fast=8, rounds=1, batches=0))}
    measured["big"] = measure_large(place, Size(slow=4, fast=4, rounds=1, batches=0))
    assert len(goal_table(measured)) == goals_of("texts", "big") + 2
    assert ran.count("A") == ran.count("B") == ran.count("core, auto") == 2


def test_c_and_d_embed_as_a(place: Workplace) -> None:
    files = photographs(3)
    expected = place.plain.embed("image", files)
    handler = plain.PlainHandler(SMALL, place.weights, "image")
    batches = handler.run_inference(files, handler.load_model())
    np.testing.assert_array_equal(np.stack([found.inference for found in batches]), expected)
    embed = plain.plain_udf(SMALL, place.weights, "image")
    frame, _ = place.frames(place.table("few", files))
    rows = {row.id: row.vector for row in frame.select("id", embed("value").alias("vector")).collect()}
    np.testing.assert_allclose([rows[number] for number in range(3)], expected, rtol=1e-4, atol=1e-5)


def _run_of(rates: dict[str, list[float]], tmp_path: Path, name: str) -> str:
    path = tmp_path / name
    path.write_text(json.dumps({"described": "two cores", "speed": rates}))
    return str(path)


@pytest.mark.parametrize(
    ("core", "code", "said"),
    [
        ([60.0, 62.0, 58.0], 0, "| 6.00 | 6.00 | +0% |  |"),
        ([50.0, 52.0, 49.0], 1, "| 6.00 | 5.00 | -17% | **worse** |"),
        ([50.0, 61.0, 49.0], 0, "| 6.00 | 5.00 | -17% |  |"),  # a round was as good: noise
        ([58.0, 58.0, 58.0], 0, "| 6.00 | 5.80 | -3% |  |"),
    ],
)
def test_a_ratio_that_falls_in_every_round_ends_the_comparison_with_1(tmp_path, core, code, said) -> None:
    old = _run_of({"A": [10.0, 10.0, 10.0], "core, auto": [60.0, 63.0, 57.0]}, tmp_path, "old.json")
    new = _run_of({"A": [10.0, 10.0, 10.0], "core, auto": core}, tmp_path, "new.json")
    done = CliRunner().invoke(bench_compare.main, [old, new])
    assert (done.exit_code, said in done.output) == (code, True), done.output


def test_runs_without_a_common_ratio_and_other_files_are_refused(tmp_path) -> None:
    old = _run_of({"A": [10.0]}, tmp_path, "old.json")
    (tmp_path / "other.json").write_text("[]")
    for new, said in ((old, "no ratio in common"), (str(tmp_path / "other.json"), "is not a benchmarks.json")):
        done = CliRunner().invoke(bench_compare.main, [old, new])
        assert done.exit_code == 2
        assert said in done.output
