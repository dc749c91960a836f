"""Parse model names: `resolve_model` returns a `ModelRef`, or fails with the nearest names."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
from pathlib import Path
from urllib.parse import parse_qsl

from ...errors import SpecError, UnknownModelError
from ...files.drivers import DRIVERS
from ...media.options import Preprocessing
from . import cn_clip, mclip, tables
from .fake_options import fake_biases, fake_least_dimensions, fake_modalities, fake_scales
from .hugging_face_kinds import CLASSES
from .tables import simplify
from .twins import is_of_transformers, twin_message

_FILE_NAME = re.compile(r".*(/|\.pt|\.bin|\.safetensors)", re.IGNORECASE | re.DOTALL)
_WEIGHT_FILE = re.compile(r".*/.*|" + _FILE_NAME.pattern, re.IGNORECASE | re.DOTALL)
_RELATIVE_FILE = re.compile(r"::[^/]|^(hf|onnx):[^/]")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_MODALITIES = frozenset({"text", "image", "audio"})
_URL_SCHEMES = ("http", "https", *DRIVERS)


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRef:
    """A parsed model name.

    Attributes:
        family: The loader of the model: `open_clip`, `hf-hub`, `demo`, `hf`, `m-clip`, `cn-clip`, `audioclip`, `onnx`,
            `custom` or `fake`.
        name: The whole name in the spelling of the catalog.
        architecture: An architecture of open_clip, else "".
        weights: A tag, the absolute path of a file or directory, a hub repository, or `module:factory`.
        quick_gelu: Whether the activation is QuickGELU, if the name decides it; None if the model's configuration does.
    """

    family: str
    name: str
    architecture: str = ""
    weights: str = ""
    quick_gelu: bool | None = None

    @property
    def is_file(self) -> bool:
        """Whether the weights are a file or directory of the user, by path or URL."""
        return self.family not in ("custom", "fake") and (os.path.isabs(self.weights) or "://" in self.weights)

    @property
    def options(self) -> dict[str, str]:
        """The `key=value&…` options of a `fake::` name."""
        return dict(parse_qsl(self.weights, keep_blank_values=True)) if self.family == "fake" else {}

    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing of an open_clip model from the table."""
        facts = tables.architectures()[self.architecture]
        by_tag = {} if self.is_file else tables.weights()[self.architecture][self.weights]
        return Preprocessing.of(facts["image_size"], by_tag)


def resolve_model(name: str) -> ModelRef:
    """Parse a model name.

    Args:
        name: A name in any spelling that docs/models.md lists.

    Returns:
        The reference, with relative paths made absolute.

    Raises:
        UnknownModelError: If the name is in no catalog; the message lists the nearest names.
        SpecError: If the name is of a known kind but invalid.
    """
    name = name.strip()
    if "\0" in name:
        raise SpecError(f"{name!r} holds a null character, which no model's name and no path may hold")
    return _resolve(name, os.getcwd() if _RELATIVE_FILE.search(name) else "")


@functools.lru_cache(maxsize=1024)
def _resolve(name: str, working_directory: str) -> ModelRef:
    """Parse a model name; cached by working directory too, since a relative path depends on it."""
    head, colon, rest = name.partition(":")
    if name.lower() == "demo":
        return ModelRef("demo", "demo")
    if head == "fake" and (not colon or rest.startswith(":")):
        return _fake(name if colon else "fake::", rest[1:])
    if head == "custom":
        return _custom(name, rest)
    if head == "hf-hub":
        if not _REPOSITORY.fullmatch(rest):
            raise SpecError(f"{name!r} is not of the form 'hf-hub:organisation/name'")
        return ModelRef("hf-hub", name, weights=rest)
    if colon and head in ("hf", "onnx"):
        return _directory(head, rest)
    if simplify(name).startswith("m-clip-"):
        return _mclip(name)
    if simplify(name).startswith("cn-clip-"):
        return _cn_clip(name)
    if simplify(name.partition("::")[0]) == "audioclip":
        return _audioclip(name)
    return _open_clip(name)


def absolute_if_path(value: str) -> str:
    """Return the absolute form of a path; return anything else (a tag, a repository) unchanged."""
    is_path = value.startswith((".", "/", "~")) or bool(
        _FILE_NAME.fullmatch(value) and not _REPOSITORY.fullmatch(value)
    )
    return _absolute(value) if is_path and "://" not in value else value


def _absolute(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except (RuntimeError, ValueError) as err:
        raise SpecError(f"{path!r} begins with the home directory of a user who has none; write the path out") from err


def _directory(family: str, rest: str) -> ModelRef:
    if family == "hf" and _REPOSITORY.fullmatch(rest) and not rest.startswith("."):
        return ModelRef("hf", f"hf:{rest}", weights=rest)
    if not rest or "://" in rest or (family == "hf" and not rest.startswith((".", "/", "~"))):
        forms = "'hf:organisation/name' or 'hf:./directory'" if family == "hf" else "'onnx:./directory'"
        raise SpecError(f"'{family}:{rest}' is not of the form {forms}")
    path = _absolute(rest)
    return ModelRef(family, f"{family}:{path}", weights=path)


def _mclip(name: str) -> ModelRef:
    given, separator, directory = name.partition("::")
    by_simple = {simplify(known): known for known in mclip.MODELS}
    known = by_simple.get(simplify(given))
    if known is None:
        raise UnknownModelError(f"unknown model {name!r}; M-CLIP's models are {', '.join(mclip.MODELS)}")
    if not separator:
        return ModelRef("m-clip", known, known)
    if not directory or "://" in directory:
        raise SpecError(f"{name!r} needs the directory with the text tower after '::', such as {known}::./directory")
    path = _absolute(directory)
    return ModelRef("m-clip", f"{known}::{path}", known, path)


def _cn_clip(name: str) -> ModelRef:
    given, separator, directory = name.partition("::")
    known = {simplify(known): known for known in cn_clip.NAMES}.get(simplify(given))
    if known is None:
        raise UnknownModelError(f"unknown model {name!r}; Chinese-CLIP's models are {', '.join(cn_clip.NAMES)}")
    if known != cn_clip.RESNET:
        if separator:
            raise SpecError(f"{name!r}: a directory with this model's files of transformers is 'hf:./directory'")
        return _directory("hf", cn_clip.REPOSITORIES[known])
    if not separator:
        return ModelRef("cn-clip", known, known)
    if not directory or "://" in directory:
        raise SpecError(f"{name!r} needs the directory with {cn_clip.RESNET_FILE} and vocab.txt after '::'")
    path = _absolute(directory)
    return ModelRef("cn-clip", f"{known}::{path}", known, path)


def _audioclip(name: str) -> ModelRef:
    _, separator, weights = name.partition("::")
    if not separator:
        weights = "full"
    elif _WEIGHT_FILE.fullmatch(weights):
        weights = _file_or_url(name, weights)
    elif weights.lower() in ("full", "partial"):
        weights = weights.lower()
    else:
        raise UnknownModelError(f"unknown weights {name!r}; known: AudioCLIP::full, AudioCLIP::partial, or a file")
    return ModelRef("audioclip", f"AudioCLIP::{weights}", "AudioCLIP", weights)


def _custom(name: str, target: str) -> ModelRef:
    module, colon, factory = target.partition(":")
    if not (colon and module and factory.isidentifier()):
        raise SpecError(f"{name!r} is not of the form 'custom:package.module:factory'")
    return ModelRef("custom", name, weights=target)


def _fake(name: str, options: str) -> ModelRef:
    ref = ModelRef("fake", name, weights=options)
    if unknown := sorted(fake_modalities(ref.options) - _MODALITIES):
        raise SpecError(f"model {name!r}: modalities holds {unknown[0]!r}; known: {', '.join(sorted(_MODALITIES))}")
    if not ref.options.get("dim", "8").isdecimal() or int(ref.options.get("dim", "8")) < 1:
        raise SpecError(f"model {name!r}: dim={ref.options['dim']!r} is not an integer of at least 1")
    try:
        fake_scales(ref.options)
        fake_biases(ref.options)
        fake_least_dimensions(ref.options)
    except SpecError as err:
        raise SpecError(f"model {name!r}: {err}") from err
    return ref


def _open_clip(name: str) -> ModelRef:
    given, separator, weights = name.partition("::")
    found = tables.find_architecture(given)
    if found is None:
        raise UnknownModelError(_unknown_model(name, given, bool(separator)))
    architecture, quickgelu = found
    if separator and _WEIGHT_FILE.fullmatch(weights):
        return _weight_file(name, architecture, quickgelu, weights)
    tags = list(tables.weights().get(architecture, {}))
    tag = tables.find_tag(architecture, weights if separator else "openai")
    if tag is None:
        problem = f"has no weights {weights!r}" if separator else "has no weights by OpenAI, so give its weights"
        near = difflib.get_close_matches(weights, tags, n=len(tags), cutoff=0.0) if separator and tags else tags
        choice = ", ".join(f"{architecture}::{t}" for t in near) if tags else f"only {architecture}::/path/to/file"
        raise UnknownModelError(f"{architecture} {problem}; known: {choice}")
    facts = tables.weights()[architecture][tag]
    return ModelRef("open_clip", f"{architecture}::{tag}", architecture, tag, bool(facts.get("quick_gelu")))


def _weight_file(name: str, architecture: str, quickgelu: bool, path: str) -> ModelRef:
    absolute = _file_or_url(name, path)
    own = bool(tables.architectures()[architecture].get("quick_gelu"))
    suffix = tables.QUICKGELU if quickgelu else ""
    return ModelRef("open_clip", f"{architecture}{suffix}::{absolute}", architecture, absolute, quickgelu or own)


def _file_or_url(name: str, weights: str) -> str:
    """Return the absolute path of a weights file, or its URL unchanged (it is fetched once per machine)."""
    if "://" not in weights:
        return _absolute(weights)
    scheme, _, rest = weights.partition("://")
    if scheme not in _URL_SCHEMES:
        raise SpecError(f"{name!r}: the URL of weights must have one of the schemes {', '.join(_URL_SCHEMES)}")
    if "@" in rest.partition("/")[0] and scheme in ("http", "https"):
        raise SpecError("a URL of weights gets into logs and datasets; remove the user name and password")
    return weights


def named_models() -> list[str]:
    """Return the name of every model that has one: the demo model, and published weights.

    Names for repositories of transformers are left out, whose facts are in their files.
    """
    published = (f"{architecture}::{tag}" for architecture, tag in tables.pairs())
    return ["demo", *published, *mclip.MODELS, cn_clip.RESNET, "AudioCLIP::full", "AudioCLIP::partial"]


def _unknown_model(name: str, given: str, has_weights: bool) -> str:
    if not has_weights and (os.path.isdir(os.path.expanduser(name)) or name.startswith((".", "/", "~"))):
        return f"{name!r} is not a model name; for a directory with a Hugging Face model write 'hf:{name}'"
    known = [*tables.architectures(), *(name.partition("::")[0] for name in named_models())]
    by_simple = {tables.simplify(k): k for k in known}
    near = difflib.get_close_matches(tables.simplify(given), list(by_simple), n=4, cutoff=0.6)
    hint = f"nearest: {', '.join(by_simple[n] for n in near)}" if near else "`clipmill models` lists all names"
    if given.lower() == "jinaai/jina-clip-v1":
        return f"{name!r} is not supported; jina-clip-v2 is: hf:jinaai/jina-clip-v2"
    if not has_weights and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        if twin := twin_message(name):
            own = f", and transformers' files load as 'hf:{name}'" if is_of_transformers(name) else ""
            return f"unknown model {name!r}; {twin}{own}"
        hint = (
            f"for a model of Hugging Face's transformers ({', '.join(CLASSES.values())}) write"
            f" 'hf:{name}', for an open_clip repository 'hf-hub:{name}'; {hint}"
        )
    return f"unknown model {name!r}; {hint}"
