"""Sounds in documents, columns, tables, folders and on the command line."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contract import WITH_SOUNDS, png, tone, vector_of_wav, wav
from PIL import Image

from clipmill.datasets.inputs.planning import plan_shards
from clipmill.datasets.inputs.readers import ReaderOptions, read_documents
from clipmill.encoders import Document, EncoderSpec, Failure, Uri, Vector, load_encoder
from clipmill.encoders.item import item_of_value
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.testing import fake_audio_vector
from clipmill.errors import EmbeddingError, SpecError
from clipmill.pipelines.cli import main

# --- documents -------------------------------------------------------------------------------------------------------


def outcome_of(document: Document, model: str = WITH_SOUNDS, **options):
    return load_encoder(model, **options).embed_items([document.item()])[0]


def test_documents_with_sounds_are_told_by_their_content(tmp_path) -> None:
    """Bytes, files without an ending, data: URIs and waveforms with tags, whatever the ending or media type says."""
    data = wav(40, 2)
    (tmp_path / "picture.jpg").write_bytes(data)
    shown = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    waveform = Document(tensor=tone(40, 2).T, tags={"sample_rate": 8000})
    documents = [Document(blob=data), Document.from_listed_uri(str(tmp_path / "picture.jpg")), Document(uri=shown)]
    for document in (*documents, waveform, Document(blob=tone(40, 2).T, tags={"sample_rate": 8000.0})):
        found = outcome_of(document)
        assert isinstance(found, Vector), found
        np.testing.assert_array_equal(found.values, vector_of_wav(40, 2))
        assert found.media_type == (None if document.tensor is not None else "audio/wav")
    one = Document(tensor=tone(30)[:, 0], tags={"sample_rate": 8000})
    np.testing.assert_array_equal(outcome_of(one).values, vector_of_wav(30))


def test_a_documents_waveform_without_its_rate_says_what_is_missing() -> None:
    failure = outcome_of(Document(tensor=np.zeros(100, np.float32)))
    assert isinstance(failure, Failure)
    assert failure.code == "malformed"
    assert "tags['sample_rate']" in failure.message


def test_models_without_audio_say_what_the_content_is() -> None:
    """An image that looks like a sound's container is still an image."""
    failure = outcome_of(Document(blob=wav(30)), "fake::dim=8")
    assert (failure.code, "not audio (audio/wav)" in failure.message) == ("unsupported", True)
    failure = outcome_of(Document(tensor=np.zeros(9), tags={"sample_rate": 8000}), "fake::dim=8")
    assert (failure.code, "not audio" in failure.message) == ("unsupported", True)
    webp = io.BytesIO()
    Image.new("RGB", (3, 2)).save(webp, "WEBP")
    assert isinstance(outcome_of(Document(blob=webp.getvalue()), "fake::dim=8"), Vector)
    assert isinstance(outcome_of(Document(blob=webp.getvalue(), mime_type="audio/webp")), Vector)
    assert outcome_of(Document(blob=b"noise", mime_type="audio/aac")).message.startswith("5 bytes that begin with")


# --- values of columns -----------------------------------------------------------------------------------------------


def test_values_of_a_column() -> None:
    """Bytes, pairs, and structs as data sets have them; samples before bytes before a path."""
    data, samples = wav(40), tone(40)[:, 0]
    values = [
        data,
        bytearray(data),
        (samples, 8000),
        [samples.tolist(), 8000],
        {"array": samples, "sampling_rate": 8000},
        {"waveform": samples.tolist(), "sample_rate": 8000},
        {"bytes": data, "path": "none.wav"},
        {"array": samples, "sampling_rate": 8000, "path": None, "bytes": b"none"},
        {"array": None, "sampling_rate": None, "path": "x", "bytes": data},
    ]
    for value, found in zip(values, load_encoder(WITH_SOUNDS).embed("audio", values), strict=True):
        assert isinstance(found, Vector), (type(value), found)
        np.testing.assert_array_equal(found.values, vector_of_wav(40))
    assert item_of_value("audio", {"path": "s.wav", "bytes": None}).content == Uri("s.wav")
    assert item_of_value("audio", "s.wav").content == Uri("s.wav")
    assert item_of_value("audio", {"array": None, "sampling_rate": 8000}).content is None


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (np.zeros(9), "malformed"),
        ([0.0, 0.1, 0.2], "malformed"),
        ((np.zeros(9), None), "malformed"),
        ({"array": [0.0]}, "malformed"),
        ({"array": 5, "sampling_rate": 8000}, "unsupported"),
        ({"array": [[0.1, 0.2], [0.1]], "sampling_rate": 8000}, "wrong_shape"),
        ({"path": 5}, "unsupported"),
        ({"samples": [0.0]}, "unsupported"),
        ({}, "unsupported"),
        (7, "unsupported"),
    ],
)
def test_values_of_a_column_that_are_refused(value, code) -> None:
    (failure,) = load_encoder(WITH_SOUNDS).embed("audio", [value])
    assert failure.code == code


def test_a_pair_or_a_list_of_samples_in_a_row_is_one_sound() -> None:
    """Lists of sounds are an array of them."""
    plan = ColumnPlan.of({"s": "audio"}, spec=EncoderSpec(WITH_SOUNDS))
    pair = ([0.0, 0.5], 8000)
    assert len(plan.items({"s": pair}.__getitem__)) == 1
    assert len(plan.items({"s": [0.0, 0.5, 0.1]}.__getitem__)) == 1
    assert len(plan.items({"s": [pair, pair, None]}.__getitem__)) == 3
    assert len(plan.items({"s": []}.__getitem__)) == 0
    with pytest.raises(SpecError, match="embeds image and text only"):
        ColumnPlan.of({"s": "audio"}, spec=EncoderSpec("fake::dim=8"))


def test_embed_audios() -> None:
    encoder = load_encoder(WITH_SOUNDS)
    made = encoder.embed_audios([wav(40), (tone(20)[:, 0], 8000)])
    np.testing.assert_array_equal(made, [vector_of_wav(40), vector_of_wav(20)])
    assert encoder.embed_audios([]).shape == (0, 8)
    with pytest.raises(EmbeddingError, match="row 1"):
        encoder.embed_audios([wav(40), b"noise"])
    with pytest.raises(TypeError, match="put it into a list"):
        encoder.embed_audios(wav(40))


def test_preprocessing_off_is_about_images() -> None:
    """Sounds are decoded and resampled as ever."""
    found = load_encoder(WITH_SOUNDS, preprocess=False).embed_audios([wav(40)])
    np.testing.assert_array_equal(found, [vector_of_wav(40)])


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "60", True, None])
def test_the_limit_of_seconds_is_a_number(seconds) -> None:
    with pytest.raises(SpecError, match="max_audio_seconds"):
        EncoderSpec("fake::", max_audio_seconds=seconds)


def test_the_fakes_modalities_are_checked() -> None:
    assert EncoderSpec("fake::modalities=audio").modalities == {"audio"}
    with pytest.raises(SpecError, match="modalities holds 'video'"):
        EncoderSpec("fake::modalities=text,video")
    vector = fake_audio_vector(np.array([[0.25, 0.5], [0.0, -0.5]], np.float32), 8000)
    assert vector.tolist() == [2, 2, 8000, 0.5, 0, 0, 0, 0]


# --- files and commands ----------------------------------------------------------------------------------------------


def parquet(path) -> str:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    wave = pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.int32())])
    rows = {
        "id": ["a", "b", "null"],
        "audio": pa.array([{"bytes": wav(40), "path": None}, {"bytes": wav(30), "path": "b.wav"}, None], struct),
        "wave": pa.array([{"array": tone(50)[:, 0].tolist(), "sampling_rate": 8000}] * 2 + [None], wave),
    }
    pq.write_table(pa.table(rows), path)
    return str(path)


def test_tables_with_sounds_are_documents(tmp_path) -> None:
    """A column named `audio` is found; another is named; samples bring their rate as a tag."""
    path = parquet(tmp_path / "sounds.parquet")
    (shard,) = plan_shards([path])
    encoder = load_encoder(WITH_SOUNDS)
    found = encoder.embed_items([document.item() for document in read_documents(shard)])
    np.testing.assert_array_equal([one.values for one in found[:2]], [vector_of_wav(40), vector_of_wav(30)])
    assert found[2].code == "empty"
    documents = list(read_documents(shard, ReaderOptions(audio="wave", id="id")))
    assert [document.id for document in documents] == ["a", "b", "null"]
    assert documents[0].tags == {"sample_rate": 8000}
    np.testing.assert_array_equal(encoder.embed_items([documents[0].item()])[0].values, vector_of_wav(50))


def test_samples_of_tables_come_as_arrays_of_their_type(tmp_path) -> None:
    """No Python number each; nulls and channels of unequal length are failures of their rows; rows carry them along."""
    kind = pa.struct([("array", pa.list_(pa.list_(pa.int16()))), ("sampling_rate", pa.int32())])
    steps = (tone(40, 2).T * 32768).astype(np.int16).tolist()
    given = [[steps[0], steps[1]], [steps[0], steps[1][1:]], [steps[0], [None, *steps[1][1:]]], None]
    waves = pa.array([{"array": one, "sampling_rate": 8000} for one in given], kind)
    inner = pa.StructArray.from_arrays([waves], ["sound"])
    path = str(tmp_path / "sounds.parquet")
    pq.write_table(pa.table({"id": ["a", "ragged", "null", "none"], "wave": waves, "page": inner}), path)
    (shard,) = plan_shards([path])
    for column in ("wave", "page.sound"):
        documents = list(read_documents(shard, ReaderOptions(audio=column)))
        assert documents[0].tensor.dtype == np.int16
        found = load_encoder(WITH_SOUNDS).embed_items([documents[0].item(), documents[2].item()])
        np.testing.assert_array_equal(found[0].values, vector_of_wav(40, 2))
        assert (documents[1].failures[0].code, found[1].code) == ("wrong_shape", "unsupported")
    assert run(path, "-o", str(tmp_path / "out"), "--column", "page.sound=audio") == 0
    made = pq.read_table(tmp_path / "out")
    assert made.column("page").to_pylist() == [inner[row].as_py() for row in (0, 3)]


def test_json_lines_name_sounds_by_their_uris(tmp_path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"uri": "s.wav"}\n')
    (shard,) = plan_shards([str(tmp_path / "lines.jsonl")])
    (document,) = read_documents(shard, ReaderOptions(audio="sound"))
    assert "give audio content as 'uri'" in document.failures[0].message


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["embed", *arguments, "--model", WITH_SOUNDS])
    return ended.value.code or 0


def test_the_command_line_embeds_folders_with_sounds(tmp_path, capsys) -> None:
    """Pictures and sounds mixed; and a table's column of sounds."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.wav").write_bytes(wav(40))
    (folder / "b.png").write_bytes(png(2, 3, (1, 2, 3)))
    (folder / "c.mp3").write_bytes(b"noise")
    assert run(str(folder), "-o", str(tmp_path / "out")) == 0
    rows = {row["id"].rsplit("/", 1)[-1]: row for row in pq.read_table(tmp_path / "out").to_pylist()}
    assert set(rows) == {"a.wav", "b.png"}
    assert rows["a.wav"]["embedding"] == vector_of_wav(40).tolist()
    assert rows["a.wav"]["mime_type"] == "audio/wav"
    table = parquet(tmp_path / "sounds.parquet")
    assert run(table, "-o", str(tmp_path / "rows"), "--column", "wave=audio") == 0
    vectors = [row["wave_embedding"] for row in pq.read_table(tmp_path / "rows").to_pylist()]
    assert vectors == [vector_of_wav(50).tolist()] * 2 + [None]
    assert run(table, "-o", str(tmp_path / "docs"), "--audio-column", "wave", "--id-column", "id") == 0
    capsys.readouterr()


def test_the_command_line_prints_a_sounds_vector(tmp_path, capsys) -> None:
    (tmp_path / "a.wav").write_bytes(wav(40))
    assert run("--audio", str(tmp_path / "a.wav"), "--text", "hi") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(lines[1], vector_of_wav(40), rtol=1e-6)
    assert run("--audio", str(tmp_path / "a.wav"), "folder") == 2
    assert "--audio" in capsys.readouterr().err
