"""Reading a Dockerfile without Docker: its stages, and what in it cannot work.

Each check returns the problems that it found, as sentences, so that a test can show that it finds them.
"""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

WORDS = {"ADD", "ARG", "COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "RUN", "USER", "WORKDIR"}
VARIABLE = re.compile(r"\$(?:\{([A-Z][A-Z0-9_]*)[^}]*\}|([A-Z][A-Z0-9_]*))")


@dataclass
class Stage:
    """What stands between one FROM and the next, as pairs of a word and what follows it."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def of(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]


@dataclass
class Dockerfile:
    """Arguments before the first FROM with their defaults, and the stages."""

    arguments: dict[str, str]
    stages: dict[str, Stage]

    def chain(self, name: str) -> list[Stage]:
        """Return a stage and those that it is built on, itself first."""
        found = [self.stages[name]]
        while found[-1].base in self.stages:
            found.append(self.stages[found[-1].base])
        return found

    def images(self) -> list[str]:
        """Return the images from elsewhere, arguments put in."""
        bases = [stage.base for stage in self.stages.values() if stage.base not in self.stages]
        return [VARIABLE.sub(lambda match: self.arguments[match[1] or match[2]], base) for base in bases]


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile; a word that starts no instruction is a `ValueError`."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    file = Dockerfile({}, {})
    stage: Stage | None = None
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = line.partition(" ")
        if word not in WORDS:
            raise ValueError(f"no instruction starts with {word!r}: {line!r}")
        if word == "FROM":
            base, _, name = re.sub(r"^--platform=\S+ ", "", rest).partition(" AS ")
            stage = file.stages.setdefault(name or str(len(file.stages)), Stage(base, name))
        elif stage is not None:
            stage.instructions.append((word, rest))
        elif word == "ARG":
            name, _, default = rest.partition("=")
            file.arguments[name] = default.strip('"')
        else:
            raise ValueError(f"{word} stands before the first FROM")
    return file


def copies(stage: Stage) -> list[tuple[str | None, list[str], str]]:
    """Return the stage or image that each COPY takes from (None is the repository), its sources and its target."""
    found = []
    for rest in stage.of("COPY"):
        words = rest.split()
        flags = [word for word in words if word.startswith("--")]
        origin = next((flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")), None)
        *sources, target = words[len(flags) :]
        found.append((origin, sources, target))
    return found


def is_ignored(path: str, ignore: str) -> bool:
    """Whether a file of the repository stays away from the builder; of the patterns that match, the last counts."""
    ignored = False
    parts = PurePosixPath(path).parts
    for line in ignore.splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        if pattern.startswith("**/"):
            matches = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            depth = len(PurePosixPath(pattern).parts)
            matches = fnmatch.fnmatch("/".join(parts[:depth]), pattern)
        if matches:
            ignored = not line.strip().startswith("!")
    return ignored


def copy_problems(file: Dockerfile, root: Path, ignore: str) -> list[str]:
    """What is copied has to be there: in the repository and let through, or in a stage."""
    problems = []
    for stage in file.stages.values():
        for origin, sources, _ in copies(stage):
            if origin is not None:
                if origin not in file.stages:
                    problems.append(f"{stage.name} copies from {origin}, which is no stage")
                continue
            for source in sources:
                if not (root / source).exists():
                    problems.append(f"{stage.name} copies {source}, which is not in the repository")
                elif is_ignored(source, ignore):
                    problems.append(f"{stage.name} copies {source}, which is ignored")
    return problems


def variable_problems(file: Dockerfile) -> list[str]:
    """A variable that no ARG or ENV gives is empty, without a word; an ARG before FROM is seen by FROM alone."""
    problems = []
    for stage in file.stages.values():
        wanted = [match[1] or match[2] for match in VARIABLE.finditer(stage.base)]
        problems += [f"FROM of {stage.name} uses {name}" for name in wanted if name not in file.arguments]
        known = {
            name for one in file.chain(stage.name) for rest in one.of("ENV") for name in re.findall(r"([A-Z_]+)=", rest)
        }
        for word, rest in stage.instructions:
            if word == "ARG":
                name, given, _ = rest.partition("=")
                known.add(name)
                if not given and name not in file.arguments:
                    problems.append(f"ARG {name} of {stage.name} has no default")
            elif word != "ENTRYPOINT":
                wanted = [match[1] or match[2] for match in VARIABLE.finditer(rest)]
                problems += [f"{word} of {stage.name} uses {name}" for name in wanted if name not in known]
    return problems


def target_problems(file: Dockerfile, targets: tuple[str, ...]) -> list[str]:
    """Each target has to exist, and to start a program that was copied into it."""
    problems = []
    for target in targets:
        if target not in file.stages:
            problems.append(f"there is no target {target}")
            continue
        chain = file.chain(target)
        entry = [rest for stage in chain for rest in stage.of("ENTRYPOINT")]
        if not entry or not entry[0].startswith("["):
            problems.append(f"{target} has no ENTRYPOINT in exec form: arguments would not reach it")
            continue
        program = json.loads(entry[0])[0]
        placed = {
            f"{goal.rstrip('/')}/{PurePosixPath(source).name}"
            for stage in chain
            for _, sources, goal in copies(stage)
            for source in sources
        }
        if program not in placed:
            problems.append(f"{target} starts {program}, which is copied nowhere")
    return problems


def install_problems(file: Dockerfile, targets: tuple[str, ...]) -> list[str]:
    """Each target has to run its own installation, with the versions that it is made for."""
    problems = []
    for target in targets:
        stage = file.stages[target]
        if not any(f"install.sh {target} " in rest for rest in stage.of("RUN")):
            problems.append(f"{target} does not run install.sh {target}")
        given = {rest.partition("=")[0] for rest in stage.of("ARG")}
        missing = sorted({"BEAM_VERSION", "SPARK_VERSION", "TORCH_INDEX", "MODEL"} - given)
        problems += [f"{target} does not declare ARG {name}" for name in missing]
    return problems


def page_problems(page: str, file: Dockerfile) -> list[str]:
    """What a page tells to build has to be what the Dockerfile has."""
    problems = []
    for command in re.findall(r"^docker build .*", page.replace("\\\n", ""), re.MULTILINE):
        targets = re.findall(r"--target (\S+)", command)
        problems += [f"no target {target}" for target in targets if target not in file.stages]
        known = set(file.arguments)
        for target in targets:
            known |= (
                {rest.partition("=")[0] for rest in file.stages[target].of("ARG")} if target in file.stages else set()
            )
        named = re.findall(r"--build-arg (\w+)=", command)
        problems += [f"no argument {name}" for name in named if name not in known]
        if not targets:
            problems.append(f"no --target in {command!r}")
    return problems
