"""Beam YAML: pipelines that read, embed, rank and write."""

from __future__ import annotations

import json
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.yaml import main
from apache_beam.yaml.yaml_transform import YamlTransform
from beam_helpers import LOCAL, Keep, kept, pipeline
from PIL import Image
from places import ROOT

from clipmill.datasets import read_dataset
from clipmill.encoders import read_provenance, unload_all
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.transforms import Embed
from clipmill.transforms import yaml as clip_yaml

PROVIDERS = {
    "ClipEmbed": clip_yaml.Embed,
    "ClipRank": clip_yaml.Rank,
    "ClipSimilarity": clip_yaml.Similarity,
    "ClipClassify": clip_yaml.Classify,
}
ROWS = [beam.Row(id="a", caption="one", words=["one", "xyz"]), beam.Row(id="b", caption="", words=["one"])]


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def run(directory, config: str, *, rows=ROWS):
    """Apply one YAML transform to rows; return the rows of its outputs, through a shuffle."""
    with pipeline() as p:
        given = p | beam.Create(rows)
        made = given | YamlTransform(config, providers=PROVIDERS)
        outputs = made if isinstance(made, dict) else {"rows": made}
        for name, pcoll in outputs.items():
            shuffled = pcoll | f"Shuffle {name}" >> beam.Reshuffle()
            _ = shuffled | f"Keep {name}" >> Keep(directory / name)
    return {name: kept(directory / name) for name in outputs}


def chain(name: str, config: str, extra: str = "") -> str:
    return f"""
type: composite
input: {{in: input}}
transforms:
  - type: {name}
    name: Clip
    input: in
    config: {config}
output: {{{extra or "rows: Clip"}}}
"""


def test_a_pipeline_reads_embeds_ranks_and_writes(tmp_path: Path, caplog):
    """The example as it stands there; its vectors are those of `Embed`, and the bad row is written with its reason."""
    colours = ("red", "blue")
    for colour in colours:
        Image.new("RGB", (64, 48), colour).save(tmp_path / f"{colour}.png")
    rows = [f"{colour},a {colour} square,{tmp_path}/{colour}.png,something red" for colour in colours]
    bad = f"gone,nothing,{tmp_path}/gone.png,something red"
    (tmp_path / "photos.csv").write_text("\n".join(["id,caption,photo,query", *rows, bad]))
    variables = json.dumps({"input": f"{tmp_path}/photos.csv", "output": f"{tmp_path}/out"})
    pipeline_file = ROOT / "examples" / "beam_pipeline.yaml"
    main.run([f"--yaml_pipeline_file={pipeline_file}", f"--jinja_variables={variables}", *LOCAL])

    def lines(name: str) -> list[dict]:
        files = (tmp_path / "out").glob(f"{name}.jsonl*")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    (failure,) = lines("failures")
    assert (failure["row"], failure["column"], failure["code"]) == ("gone", "photo", "not_found")
    assert failure["element"] == dict(id="gone", caption="nothing", photo=f"{tmp_path}/gone.png", query="something red")
    assert {row["id"]: row["rank"] for row in lines("scores")} == {"red": 1, "blue": 2}
    table = read_dataset(str(tmp_path / "out" / "vectors"))
    assert read_provenance(table.schema)["vector"]["model"] == "demo"
    vectors = dict(zip(table["id"].to_pylist(), table["vector"].to_pylist(), strict=True))
    given = [{"id": colour, "photo": f"{tmp_path}/{colour}.png"} for colour in colours]
    with pipeline() as p:
        embed = Embed("demo", columns={"photo": "image"}, allow_local_files=True)
        _ = (p | beam.Create(given) | embed).rows | Keep(tmp_path / "embed")
    for row in kept(tmp_path / "embed"):
        np.testing.assert_allclose(vectors[row["id"]], row["photo_embedding"], rtol=0, atol=1e-5)


def test_failures_have_the_name_that_the_config_gives_them(tmp_path):
    config = "{model: 'fake::dim=4', columns: {caption: text}, error_handling: {output: bad}}"
    found = run(tmp_path, chain("ClipEmbed", config, "rows: Clip.good, reasons: Clip.bad"))
    (row,) = found["rows"]
    assert row.id == "a" and list(row.caption_embedding) == fake_text_vector("one", 4).tolist()
    (reason,) = found["reasons"]
    assert (reason.row, reason.column, reason.stage, reason.code) == ("b", "caption", "tokenize", "empty")
    assert reason.message and reason.transient is False
    assert reason.element._asdict() == ROWS[1]._asdict()


def test_without_error_handling_a_bad_row_ends_the_job(tmp_path):
    with pytest.raises(Exception, match=r"column 'caption' failed at tokenize with empty.*error_handling"):
        run(tmp_path, chain("ClipEmbed", "{model: 'fake::dim=4', columns: {caption: text}}"))


def test_vectors_are_fused_and_scored(tmp_path):
    np.savez(tmp_path / "head.npz", weight=np.ones(4), bias=np.ones(1))
    file = tmp_path / "head.npz"
    heads = f"{{plain: {{path: {file}, column: caption}}, chance: {{path: {file}, column: both, activation: sigmoid}}}}"
    config = "{model: 'fake::dim=4', columns: {caption: text, id: text}, fuse: {both: {caption: 1, id: 1}}"
    found = run(tmp_path / "out", chain("ClipEmbed", f"{config}, heads: {heads}}}"), rows=ROWS[:1])
    (row,) = found["rows"]
    units = [vector / np.linalg.norm(vector) for vector in (fake_text_vector("one", 4), fake_text_vector("a", 4))]
    both = sum(units) / np.linalg.norm(sum(units))
    np.testing.assert_allclose(row.both, both, rtol=0, atol=1e-6)
    assert row.plain == pytest.approx(1 + units[0].sum(), abs=1e-6)
    assert row.chance == pytest.approx(1 / (1 + np.exp(-1 - both.sum())), abs=1e-6)


def test_lists_of_candidates_are_ranked_and_captions_classified(tmp_path):
    config = "{model: 'fake::dim=4', query: caption, candidates: words, error_handling: {output: bad}}"
    found = run(tmp_path / "rank", chain("ClipRank", config, "rows: Clip.good, reasons: Clip.bad"))
    (row,) = found["rows"]
    assert [one["candidate"] for one in row.ranked] == ["one", "xyz"]
    assert [reason.row for reason in found["reasons"]] == ["b"]
    config = "{labels: [one, xyz], templates: ['{}'], model: 'fake::dim=4', columns: {caption: text}, top_k: 1}"
    found = run(tmp_path / "classify", chain("ClipClassify", config), rows=ROWS[:1])
    (row,) = found["rows"]
    assert [one["label"] for one in row.caption_labels] == ["one"]


def test_pairs_are_kept_or_rejected(tmp_path):
    rows = [beam.Row(id="a", caption="one", other="one"), beam.Row(id="b", caption="one", other="zzzzzzzz")]
    rows.append(beam.Row(id="c", caption="", other="one"))
    options = "model: 'fake::dim=4', a: caption, b: other, min_score: 0.999"
    handled = f"{{{options}, error_handling: {{output: bad}}}}"
    config = chain("ClipSimilarity", handled, "rows: Clip.good, low: Clip.rejected, reasons: Clip.bad")
    found = run(tmp_path / "handled", config, rows=rows)
    assert [(row.id, round(row.similarity, 3)) for row in found["rows"]] == [("a", 1.0)]
    assert [(row.id, row.rejection) for row in found["low"]] == [("b", "below_min_score")]
    assert [reason.row for reason in found["reasons"]] == ["c"]
    config = chain("ClipSimilarity", f"{{{options}}}", "rows: Clip.good, low: Clip.rejected")
    found = run(tmp_path / "alone", config, rows=rows[:2])
    assert {name: [row.id for row in rows] for name, rows in found.items()} == {"rows": ["a"], "low": ["b"]}
    config = chain("ClipSimilarity", "{model: 'fake::dim=4', a: caption, b: other}")
    assert len(run(tmp_path / "all", config, rows=rows[:2])["rows"]) == 2
    with pytest.raises(SpecError, match="'rejected' is the output of rejected rows"):
        clip_yaml.Similarity("a", "b", "fake::dim=4", error_handling={"output": "rejected"})


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"columns": ["caption"]}, SpecError, "columns"),
        ({"columns": {"caption": {"kind": "text"}}}, SpecError, "modality"),
        ({"columns": {"caption": {"output": "vector"}}}, SpecError, "modality"),
        ({"columns": {"caption": "text"}, "error_handling": {"threshold": 0.1}}, SpecError, "error_handling"),
        ({"columns": {"caption": "text"}, "error_handling": "failures"}, SpecError, "error_handling"),
        ({"columns": {"caption": "text"}, "error_handling": {"output": "good"}}, SpecError, "error_handling"),
        ({"columns": {"caption": "text"}, "batch_size": 3}, TypeError, "max_batch_rows"),
        ({"columns": {"caption": "text"}, "heads": {"a": {"column": "caption"}}}, SpecError, "path"),
        ({"columns": {"caption": "text"}, "heads": {"a": {"path": "a.npz", "name": "a"}}}, TypeError, "name"),
    ],
)
def test_options_that_cannot_work(options, error, name):
    with pytest.raises(error, match=name):
        clip_yaml.Embed(model="fake::dim=4", **options)


def test_rows_without_a_schema_are_refused():
    with pytest.raises(SpecError, match="schema"), pipeline() as p:
        _ = p | beam.Create([{"caption": "one"}]) | clip_yaml.Embed({"caption": "text"}, "fake::dim=4")
