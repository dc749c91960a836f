"""What a job does with what its directory holds already, and how the directory is prepared for it."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Literal, get_args

from ..errors import DatasetError, SpecError, check_choice, check_flags
from ..files.folder import TEMPORARY, Folder, remove_temporaries
from ..files.json_text import some_of
from ..files.lock import LOCK, clear_lock, refuse_if_held
from ..messages import Message, setting
from .directory import JOB, NEXT, OWN, PLAN, SUCCESS, check_is_no_file, check_own, is_orphan, is_own, is_plan, is_start
from .replacing import finish_replacing, for_each, next_of, remove_empty

IfExists = Literal["fail", "replace", "resume", "replace_unfinished"]
"""What a job does with a dataset that its directory holds already:

- `fail`: it is refused
- `replace`: the dataset is replaced, once the new one is whole
- `resume`: the job continues what an unfinished job left, and starts where there is nothing
- `replace_unfinished`: like `replace` if the dataset's job did not finish (there is no `_SUCCESS`), else like `fail`
"""


def if_exists_of(if_exists: IfExists | None = None, *, overwrite: bool = False, resume: bool = False) -> IfExists:
    """Return what is done with an existing dataset; `overwrite` is short for `replace`, and `resume` for `resume`.

    Raises:
        SpecError: If the value is unknown, or if two options contradict each other.
    """
    check_flags(overwrite=overwrite, resume=resume)
    given: dict[IfExists, Message] = {}
    if if_exists is not None:
        check_choice("if_exists", if_exists, get_args(IfExists))
        given[if_exists] = setting("if_exists", if_exists)
    if overwrite:
        given.setdefault("replace", setting("overwrite", True))
    if resume:
        given.setdefault("resume", setting("resume", True))
    if len(given) > 1:
        first, second, *_ = given.values()
        raise SpecError(first + " and " + second + " contradict each other; give one of them")
    return next(iter(given), "fail")


@dataclasses.dataclass(frozen=True)
class Existing:
    """What a directory holds before a job that does not resume another.

    Attributes:
        leftovers: Files of jobs that ended early; they are deleted before the job starts.
        replaced: Files of the dataset there, which are deleted when the new one is whole.
    """

    leftovers: Sequence[str] = ()
    replaced: Sequence[str] = ()


def look_at_directory(directory: str, *, if_exists: IfExists = "fail", can_resume: bool = True) -> Existing:
    """Return what a job would find in its directory, or refuse it; nothing is written.

    Args:
        directory: Path or URL.
        if_exists: What is done with an existing dataset; `resume` is like `fail` here, where nothing is resumed.
        can_resume: Whether the caller has an option to continue an unfinished dataset, for the message.

    Raises:
        DatasetError: As `prepare_directory`, except that it does not try to write there.
    """
    folder = Folder.of(directory)
    check_is_no_file(folder)
    refuse_if_held(folder, may_write=False)
    names = [name for name in folder.list() if name != LOCK]
    orphans = [name for name in names if is_orphan(name)]
    started = [name for name in names if name.startswith(f"{NEXT}/") and name not in set(orphans)]
    held = [name for name in names if name not in {*orphans, *started}]
    # Only these count as unfinished: other temporary files may belong to a running sink, which holds no lock.
    unfinished = [name for name in orphans if is_start(name)]
    never_wrote = all(name == JOB or is_plan(name) for name in set(names) - set(unfinished)) and is_own(folder)
    is_finished = SUCCESS in held or f"{NEXT}/{SUCCESS}" in started
    may_replace = if_exists == "replace" or (if_exists == "replace_unfinished" and not is_finished)
    if (held or started) and not (may_replace or never_wrote):
        raise _refused(folder, [*held, *started], is_finished=is_finished, can_resume=can_resume)
    if held or started:
        check_own(folder, [*held, *started])
    # The description is deleted last, so that an interrupted deletion can be resumed.
    last = (JOB, f"{NEXT}/{JOB}")
    leftovers = [*sorted(started, key=lambda name: (name in last, name)), *orphans]
    ordered = sorted(held, key=lambda name: (name == JOB, name != SUCCESS, name))
    return Existing([*leftovers, *ordered]) if never_wrote else Existing(leftovers, ordered)


def _refused(folder: Folder, names: list[str], *, is_finished: bool, can_resume: bool) -> DatasetError:
    """Return the error for a directory that holds something, with what can be done about it."""
    has_plan = PLAN in names or f"{NEXT}/{PLAN}" in names
    resumed = "continue the job there (" + setting("resume", True) + "), " if can_resume and has_plan else ""
    replaced = whole = ""
    if is_own(folder) and all(map(OWN.fullmatch, names)):
        whole = ": a finished dataset" if is_finished else ""
        replaced = ", or replace the dataset there with " + setting("overwrite", True)
        if not is_finished:
            only = setting("if_exists", "replace_unfinished")
            replaced += " (" + only + " replaces only a dataset whose job did not finish, as here)"
    what = f"{folder.url} is not empty (it holds {some_of(names)}{whole})"
    return DatasetError(what, hint=resumed + "choose another directory" + replaced)


def prepare_directory(
    directory: str, *, if_exists: IfExists | None = None, overwrite: bool = False, can_resume: bool = True
) -> str:
    """Prepare a directory for a new dataset, and return the folder to write it to: empty, and writable.

    This is the directory itself, or `_next/` in it if it holds a dataset that is replaced. That one stays as it is
    until `finish_job` finds the new one whole. A directory that holds only the description of a job that never wrote
    anything counts as empty.

    Args:
        directory: Path or URL.
        if_exists: What is done with a dataset there, one of `IfExists`; `fail` by default. Nothing else is ever
            deleted. `resume` is like `fail`: an unfinished dataset is continued without preparing the directory.
        overwrite: Short for `if_exists="replace"`.
        can_resume: Whether the caller has an option to continue an unfinished dataset, for the message.

    Raises:
        DatasetError: If the directory is not empty and may not be replaced, holds files that are not part of a
            dataset, is being written by another job, or cannot be written.
    """
    policy = if_exists_of(if_exists, overwrite=overwrite)
    folder = Folder.of(directory)
    check_is_no_file(folder)
    refuse_if_held(folder)
    finish_replacing(folder)
    found = look_at_directory(directory, if_exists=policy, can_resume=can_resume)
    last = [name for name in found.leftovers if name in (JOB, f"{NEXT}/{JOB}")]
    for_each(folder.delete, [name for name in found.leftovers if name not in last], folder)
    for name in last:
        folder.delete(name)
    remove_empty(folder, NEXT)
    clear_lock(folder)
    target = next_of(folder) if found.replaced else folder
    for one in (folder, next_of(folder)):
        remove_temporaries(one)
    target.make()
    probe = f".{secrets.token_hex(4)}{TEMPORARY}"
    target.write(probe, b"")
    target.delete(probe)
    return target.url
