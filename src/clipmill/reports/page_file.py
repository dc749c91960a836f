"""A page: its template, and where it goes: over an older page of its kind and nothing else."""

from __future__ import annotations

import os
from typing import Any

from ..errors import DatasetError, require
from ..files.file_systems import check_is_no_device, check_local_path, is_local
from ..files.folder import Folder
from ..files.hub import check_is_no_hub
from ..messages import setting

_MARK_WITHIN = 2048
"""Bytes at the beginning of a page that contain its mark."""


def page_file(path: str, what: str, mark: str, *, overwrite: bool = False) -> tuple[Folder, str]:
    """Return the folder and the name of a page to write; with `overwrite`, any file may be replaced.

    `mark` is text near the beginning of every page of its kind, and of no other file.

    Raises:
        DatasetError: If the path is not a file name, exists and is not such a page, or is on a hub.
    """
    head, _, name = path.replace(os.sep, "/").rpartition("/")
    if "://" not in path:
        check_local_path(path)
    check_is_no_hub(path)
    folder = Folder.of(head if head else "/" if path.startswith("/") else ".")
    if not name:
        raise DatasetError(f"{path!r} names no file; the {what} is one, such as page.html")
    at = folder.at(name)
    if Folder(folder.fs, at).kind() == "directory":
        raise DatasetError(f"{path} is a directory; the {what} is a file, such as {path.rstrip('/')}/page.html")
    if folder.kind() == "file":
        raise DatasetError(f"{head} is a file; the {what} goes into a folder")
    if is_local(folder.fs):
        check_is_no_device(at)
        if os.path.isdir(folder.path) and not os.access(folder.path, os.W_OK):  # before the work, which would be lost
            raise DatasetError(f"cannot write {path}: its folder is read-only", hint="choose another place")
    if not overwrite and folder.exists(name):
        with folder.fs.open(at, "rb") as file:
            if mark.encode() not in file.read(_MARK_WITHIN):
                raise DatasetError(
                    f"{path} is there and is no {what} of clipmill",
                    hint="choose another name, or replace it with " + setting("overwrite", True),
                )
    return folder, name


def template_of(name: str, purpose: str) -> Any:
    """Return a template of jinja2; what comes out of rows is text and stays text, since everything is escaped."""
    jinja2 = require("jinja2", "report", purpose)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh names a thing before it refers to it
    return environment.get_template(name)
