"""Targets: names, patterns and options that users write, and texts that go through messages."""

from __future__ import annotations

import contextlib
import json
import pickle

import click
from fuzz_target import ODD_VALUES, Target, scratch_file, text_of

from clipmill import EncoderSpec
from clipmill.datasets.inputs.globs import Glob
from clipmill.datasets.inputs.listing import kind_of
from clipmill.encoders.document import AccessPaths
from clipmill.encoders.plans.labels import LabelSet
from clipmill.errors import ClipmillError, DatasetError, SpecError, noted_message, options_noted
from clipmill.files.json_text import clean_text, json_text, key_text
from clipmill.media.fetch_policy import checked_schemes
from clipmill.messages import Message, packed, setting, unpacked
from clipmill.models.catalog import resolve_model
from clipmill.models.catalog.names import named_models
from clipmill.pipelines.jobs import column_plan
from clipmill.pipelines.outcome import allowed_failures

_SPEC = EncoderSpec("fake::dim=4")


def _name_seeds() -> list[bytes]:
    names = ["ViT-L/14@336px", "ViT-B-32-quickgelu::openai", "hf:openai/clip-vit-base-patch32", "hf-hub:org/name@main"]
    names += ["ViT-B-32::./w.pt", "M-CLIP/XLM-Roberta-Large-Vit-B-32", "AudioCLIP::partial", "onnx:./d", "demo", "RN50"]
    names += ["custom:a.b:c", "fake::dim=8&modalities=text,audio&scale_at=2", "ViT-B-32::https://a/w.safetensors"]
    return [*map(str.encode, names), *(name.encode() for name in named_models()[::9])]


def check_model_name(data: bytes) -> None:
    """A name: `SpecError`, or a model whose own name is the same model, also in another process."""
    name = text_of(data)
    try:
        ref = resolve_model(name)
    except SpecError as err:
        json_text(str(err))
        return
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert resolve_model(ref.name) == ref
    if ref.family in ("open_clip", "demo", "fake", "audioclip"):
        try:
            spec = EncoderSpec(name)
        except SpecError:
            return
        assert EncoderSpec(spec.model) == spec


def _fits(pattern: str, path: str) -> bool:
    """Match a pattern without sets of characters, slowly and without regular expressions."""
    reached = {0}
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            reached |= {n + 1 for n in range(min(reached, default=len(path)), len(path)) if path[n] == "/"}
            at += 3
        elif pattern.startswith("**", at):
            reached = set(range(min(reached, default=len(path) + 1), len(path) + 1))
            at += 2
        elif pattern[at] == "*":
            for n in range(len(path)):
                reached |= {n + 1} if n in reached and path[n] != "/" else set()
            at += 1
        else:
            one = pattern[at]
            reached = {n + 1 for n in reached if path[n : n + 1] == one or (one == "?" and path[n : n + 1] not in "/")}
            at += 1
    return len(path) in reached


def check_glob(data: bytes) -> None:
    """A pattern: `DatasetError`, or one that matches what a slow matcher does, soon."""
    pattern, _, path = text_of(data).partition("\n")
    try:
        glob = Glob(pattern)
    except DatasetError:
        return
    for given in (path, pattern, "/" * 40, "/a" * 30 + ".png", "/" + "a" * 200):
        found = glob.matches(given)
        assert not (found and not given.startswith(glob.prefix))
        if "[" not in pattern and (glob.finds_hidden or "/." not in f"/{given}"):
            assert found == _fits(pattern, given), (pattern, given)
    kind_of(path)


def check_options(data: bytes) -> None:
    """Options of the command line and of transforms: an error that names them, or a value."""
    text = text_of(data)
    with contextlib.suppress(SpecError):
        paths = AccessPaths.parse(text)
        assert AccessPaths.parse("@" + ",".join(path or "r" for path in paths.paths)) == paths
    with contextlib.suppress(SpecError):
        assert all(scheme == scheme.lower() for scheme in checked_schemes(text.split(",")))
    with contextlib.suppress(click.UsageError):
        assert allowed_failures(text, 10) >= 0
    values = {"columns": text.split("\n"), "id_column": None}
    values |= dict.fromkeys(("text_column", "uri_column", "image_column", "audio_column", "access_paths"))
    values |= dict.fromkeys(("keep_content", "tags"))
    with contextlib.suppress(click.UsageError, ClipmillError):
        plan = column_plan(_SPEC, values)
        assert plan is None or pickle.loads(pickle.dumps(plan)) == plan


def check_labels(data: bytes) -> None:
    """Files of labels and templates: `SpecError`, or texts that are unique and not blank."""
    for name in ("labels.json", "labels.txt"):
        path = str(scratch_file(name, data))
        with contextlib.suppress(SpecError):
            labels = LabelSet.of(path, templates=["a {}"]).labels
            assert labels and len(set(labels)) == len(labels) and all(one.strip() for one in labels)
        with contextlib.suppress(SpecError):
            assert all("{}" in one for one in LabelSet.of(["x"], templates=path).templates)


def check_texts(data: bytes) -> None:
    """Texts in messages, keys and JSON: UTF-8 can encode them, and they come back."""
    text = text_of(data)
    clean = clean_text(text)
    assert clean.encode() and clean_text(clean) == clean if text else clean == ""
    assert json.loads(json_text(text)) == text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")
    key_text(text)
    number = data[0] if data else 0
    value = {text: [ODD_VALUES[number % len(ODD_VALUES)], {number: text}], "bytes": data}
    json_text(value).encode()
    json.loads(json_text(value))
    message = text + setting("option", text) + text
    assert unpacked(packed(Message(message))) == message
    # a worker's traceback quotes values of rows, which may look like the note of an error
    for said in (text, f"with its options, for clipmill: {text}"):
        noted_message(said)
    try:
        with options_noted():
            raise DatasetError(Message(message))
    except DatasetError as err:
        assert noted_message(f"{text}\n{err.__notes__[0]}") is not None


TARGETS = {
    "model-name": Target(
        "model names: refused, or a model whose own name is that model",
        _name_seeds,
        check_model_name,
        (
            b"::",
            b"hf:",
            b"hf-hub:",
            b"onnx:",
            b"custom:",
            b"fake::",
            b"&scale=",
            b"dim=",
            b"M-CLIP/",
            b"-quickgelu",
            b"~",
        ),
    ),
    "glob": Target(
        "patterns of inputs: refused, or matched in bounded time",
        lambda: [b"/a/**/*.jp[e-g]\n/a/b/c.jpg", b"s3://b/[!a]?.[]]\nx", b"/**\n/", b"/a/.b/*\n/a/.b/c", b"*a*a*a*b"],
        check_glob,
        (b"**/", b"**", b"[!", b"[]", b"]", b"?", b"/."),
    ),
    "options": Target(
        "access paths, schemes, columns and limits: refused by name, or read",
        lambda: [b"@r,m,cc", b"http,S3", b"1.5%", b"10", b"photo=image\ncaption=text", b"a.b=audio", b"=text"],
        check_options,
        (b"=image", b"=text", b"=audio", b"@", b"%"),
    ),
    "labels": Target(
        "files of labels and templates: refused, or unique texts",
        lambda: [b'["cat", "dog"]', b"cat\ndog\n", b'\xef\xbb\xbf["a {}"]', b"[1]", b'"x"', b"[" * 3000, b"a {} b\n{}"],
        check_labels,
        (b'["', b'", "', b"{}", b"\\ud800"),
    ),
    "texts": Target(
        "texts in messages, keys and JSON: they can be written, and come back",
        lambda: ["[/b] ü \x1b[31m".encode(), b"\xff\xfe", b"with its options, for clipmill: WyJhIl0=", b"a=b"],
        check_texts,
        (b"with its options, for clipmill: ", b"W10=", b"\xed\xa0\x80"),
    ),
}
