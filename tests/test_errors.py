"""Errors and their messages: what they carry, through copies, pickles and engines."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest

from clipmill.errors import (
    ClipmillError,
    DatasetError,
    MissingExtraError,
    OutOfMemoryError,
    SpecError,
    UnknownModelError,
    noted_message,
    options_noted,
)
from clipmill.failures import Code, Failure, Stage
from clipmill.messages import BySurface, Message, Setting, by_surface, for_any_reader, packed, setting, unpacked


@pytest.mark.parametrize("kind", [ClipmillError, SpecError, UnknownModelError, DatasetError, OutOfMemoryError])
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_keep_what_they_carry(kind, again) -> None:
    error = kind("no place in " + setting("output", "d"), option="cache_dir", hint="add " + setting("overwrite", True))
    found = again(error)
    assert type(found) is kind and str(found) == "no place in output='d'; add overwrite=True"
    assert (found.option, found.hint) == ("cache_dir", "add overwrite=True")
    assert found.text.parts == error.text.parts and Setting("overwrite", True) in found.text.parts


@pytest.mark.parametrize(
    ("error", "option", "said"),
    [
        (SpecError("plain"), None, "plain"),
        (ClipmillError(), None, ""),
        (SpecError(setting("runtime", "x") + " is wrong"), "runtime", "runtime='x' is wrong"),
        (
            DatasetError("full", hint=setting("overwrite", True) + " replaces it"),
            None,
            "full; overwrite=True replaces it",
        ),
        (
            MissingExtraError("onnxruntime", "onnx", setting("runtime", "onnx")),
            "runtime",
            "runtime='onnx' needs 'onnxruntime', which is not installed: pip install 'clipmill[onnx]'",
        ),
    ],
)
def test_the_option_at_fault_is_the_first_of_the_message(error, option, said) -> None:
    assert (error.option, str(error)) == (option, said)
    again = pickle.loads(pickle.dumps(error))
    assert (again.option, str(again)) == (option, said)


def test_an_error_made_anew_from_its_arguments_keeps_its_hint() -> None:
    """As Beam does it, which puts the step's name behind the message."""
    error = SpecError(setting("runtime", "x") + " is wrong", hint="see the list")
    again = type(error)(error.args[0] + " [in a step]", *error.args[1:])
    assert (again.option, again.hint, str(again)) == (
        "runtime",
        "see the list",
        "runtime='x' is wrong [in a step]; see the list",
    )


def test_a_message_is_text_like_any_other() -> None:
    message = "give " + setting("top_k", 3) + " or " + by_surface(python="a list", flags="a,b") + "."
    assert message == "give top_k=3 or a list." and hash(message) == hash(str(message)) and type(str(message)) is str
    assert message.parts == ("give ", Setting("top_k", "3"), " or ", BySurface("a list", "a,b"), ".")
    assert f"{message}" == message and not isinstance(f"{message}", Message)
    assert json.loads(json.dumps(message)) == message
    for again in (pickle.loads(pickle.dumps(message)), copy.deepcopy(message), unpacked(packed(message))):
        assert again == message and again.parts == message.parts


def test_a_failure_keeps_the_options_of_its_message() -> None:
    failure = Failure(Stage.FETCH, Code.FORBIDDEN_URI, "only with " + setting("allow_local_files", True)).at(row="1")
    again = pickle.loads(pickle.dumps(failure))
    assert again == failure and Setting("allow_local_files", True) in again.text.parts
    assert str(again) == "forbidden_uri at fetch: only with allow_local_files=True"


def test_files_name_what_is_switched_on_for_every_reader() -> None:
    message = (
        setting("allow_local_files", True) + " or " + setting("normalize", False) + by_surface(python="!", flags="?")
    )
    assert for_any_reader(message) == "allow_local_files=True (--allow-local-files) or normalize=False!"
    assert for_any_reader("plain overwrite=True") == "plain overwrite=True"


def test_a_traceback_tells_the_options_of_an_error_that_was_noted() -> None:
    with pytest.raises(SpecError) as refused, options_noted():
        raise SpecError(setting("runtime", "x") + " is wrong", hint="add " + setting("normalize", True))
    text = "".join(traceback.format_exception(refused.value))
    assert noted_message(text) == str(refused.value) and noted_message(text).parts == refused.value.text.parts


def test_a_traceback_of_an_error_without_options_stays_as_it_is() -> None:
    with pytest.raises(SpecError) as refused, options_noted():
        raise SpecError("plain")
    assert noted_message("".join(traceback.format_exception(refused.value))) is None
