"""The command line: `clipmill embed | rank | score | classify | index | search | report | summary`, and more.

Exit codes: 0 when all went well, 2 when what was asked for cannot work (nothing was run), 1 when a job failed or
`doctor` found a problem, 128 plus the number of the signal that ended it: 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from ..errors import ClipmillError, SpecError
from .cli_messages import in_flags
from .commands import PASSED_UNCHECKED, CommandGroup, Place
from .interrupts import Interrupted, interruptible
from .limits import memory_error

_COMMANDS = {
    "classify": Place("score_commands", "Find the labels that fit images, audio, texts or columns of tables best."),
    "doctor": Place("model_commands", "Examine this machine: what works, what is a problem, and what to do."),
    "embed": Place("embed_command", "Embed images, audio, texts and tables into a dataset."),
    "export": Place(
        "model_commands",
        "Write model NAME as graphs into DIRECTORY, to be run without torch and open_clip as onnx:DIRECTORY.",
    ),
    "index": Place("index_command", "Make datasets of vectors searchable."),
    "models": Place(
        "model_commands",
        "List model names (those that contain PATTERN), with modalities, dimension, image size, parameters, licence.",
    ),
    "plan": Place("plan_command", "Say how long embedding an input takes, on how many machines, and at what cost."),
    "push": Place("push_command", "Write the vectors of a dataset into a vector database."),
    "rank": Place("score_commands", "Rank candidates for a query: one right away, or millions as a job."),
    "report": Place(
        "report_commands", "Write one page about a dataset, an index, or Parquet files with vectors of any origin."
    ),
    "score": Place(
        "score_commands",
        "Score pairs, such as images and their captions, and keep the rows whose score is high enough.",
    ),
    "search": Place(
        "search_command",
        "Find what is nearest to texts, images and sounds, in an index or among the vectors of a dataset.",
    ),
    "summary": Place("report_commands", "Print the kinds of documents and the attributes of a dataset."),
}


@click.group(
    cls=CommandGroup,
    places=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="clipmill")
@click.option("--verbose", "-v", is_flag=True, help="Log what is loaded and where.")
def cli(verbose: bool) -> None:
    """CLIP embeddings for data pipelines, on Beam and on Spark."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("clipmill").setLevel(logging.INFO if verbose else logging.WARNING)


def _say(text: str) -> None:
    from .console import say  # late: rich takes longer to import than the rest of the command line

    say(text)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line (`sys.argv` by default) and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    split = given.index("--") if "--" in given else len(given)
    try:
        with interruptible(), cli.make_context("clipmill", given[:split]) as context:
            context.meta[PASSED_UNCHECKED] = tuple(given[split + 1 :])
            code = cli.invoke(context)
    except click.exceptions.Exit as err:
        code = err.exit_code
    except click.ClickException as err:
        err.show()
        code = err.exit_code
    except Interrupted as err:
        _say(f"clipmill: interrupted ({err})")
        code = 128 + err.number
    except (click.Abort, KeyboardInterrupt):
        _say("clipmill: interrupted")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a closed pipe is no error
        code = 1
    except Exception as err:
        if (of_memory := memory_error(err)) is not None and not isinstance(err, ClipmillError):
            click.echo(f"Error: {in_flags(of_memory)}", err=True)  # `_say` would import more
        elif isinstance(err, ClipmillError | OSError):
            _say(f"Error: {in_flags(err)}")
        else:
            raise
        code = 2 if isinstance(err, SpecError) else 1
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
