"""The pattern language of inputs (docs/formats.md, "Patterns"), used by the command line and `ReadDocuments`."""

from __future__ import annotations

import re

from ...errors import DatasetError

_MAGIC = re.compile(r"[*?\[]")
_SET = re.compile(r"\[(!?)(\]?[^\]]*)\]")


def is_glob(path: str) -> bool:
    """Return whether a path contains `*`, `?` or `[`."""
    return _MAGIC.search(path) is not None


def prefix_of(path: str) -> str:
    """Return the text before the first wildcard, of paths that need not be patterns."""
    wildcard = _MAGIC.search(path)
    return path[: wildcard.start()] if wildcard else path


def root_of(path: str) -> str:
    """Return the folder above the first part with a wildcard, of paths that need not be patterns."""
    return prefix_of(path).rpartition("/")[0]


class Glob:
    """A pattern of absolute paths or URLs.

    `*` and `?` match within one folder; `[abc]`, `[a-z]` and `[!abc]` match one character other than a slash. `**/`
    matches any number of folders, including none. Any other `**` matches across folders, so a `**` at the end matches
    everything below. Names that begin with a dot match only if a part of the pattern begins with a dot.

    Attributes:
        root: The folder above the first part with a wildcard.
        prefix: The text before the first wildcard.
        depth: Number of levels below the root at which matches can lie; None for any number.
        finds_hidden: Whether names that begin with a dot can match.
    """

    def __init__(self, pattern: str) -> None:
        """Compile a pattern; raise `DatasetError` if a set of characters is not valid, such as `[z-a]`."""
        self.prefix, self.root = prefix_of(pattern), root_of(pattern)
        rest = pattern[len(self.root) :].lstrip("/")
        self.depth = None if "**" in rest else rest.count("/") + 1
        self.finds_hidden = any(part.startswith(".") for part in rest.split("/"))
        try:
            self._regex = re.compile(_translate(pattern), re.DOTALL)
        except re.error as err:
            raise DatasetError(f"the pattern {pattern!r} is not valid: {err}") from err

    def matches(self, path: str) -> bool:
        """Return whether a path matches; the file need not exist."""
        is_hidden = any(part.startswith(".") for part in path[len(self.root) :].split("/"))
        return (self.finds_hidden or not is_hidden) and self._regex.fullmatch(path) is not None


def _translate(pattern: str) -> str:
    """Return the regular expression of a pattern; it is matched in time that does not explode with the wildcards.

    Between two `**`, and between two `*`, the first place that fits is as good as any later one: whatever follows may
    begin earlier. So atomic groups keep it. What follows the last wildcard has to fit at the end of the path.
    """
    *before, last = _groups(pattern)
    out = [f"(?>{_joined(group, is_last=False)})" for group in before]
    return "".join([*out, _joined(last, is_last=True)])


def _groups(pattern: str) -> list[list[str]]:
    """Cut a pattern where it crosses folders, and each part at its `*`; each part begins with how it is reached."""
    groups, at = [["", ""]], 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            groups.append(["(?:[^/]*/)*?", ""])
            at += 3
        elif pattern.startswith("**", at):
            groups.append([".*?", ""])
            at += 2
        elif pattern[at] == "*":
            groups[-1].append("")
            at += 1
        elif match := _SET.match(pattern, at):
            negated, characters = match.groups()
            escaped = re.sub(r"[\\\[\]^&~|]", r"\\\g<0>", characters)
            groups[-1][-1] += f"(?!/)[{'^' if negated else ''}{escaped}]"
            at = match.end()
        else:
            groups[-1][-1] += "[^/]" if pattern[at] == "?" else re.escape(pattern[at])
            at += 1
    return groups


def _joined(group: list[str], *, is_last: bool) -> str:
    reach, first, *starred = group
    end = [f"[^/]*{starred.pop()}"] if is_last and starred else []
    return "".join([reach, first, *(f"(?>[^/]*?{part})" for part in starred), *end])
