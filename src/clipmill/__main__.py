"""`python -m clipmill`: the same command line as `clipmill`."""

from __future__ import annotations


def main() -> None:
    """Run the command line. It is imported here, so that importing this module is cheap and needs no engine."""
    from .pipelines.cli import main as run

    run()


if __name__ == "__main__":
    main()
