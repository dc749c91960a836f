"""Tables for the terminal: what strangers wrote stands there as it is, and does nothing."""

from __future__ import annotations

from rich.console import Console

from clipmill.pipelines.listed import table_of


def test_brackets_and_control_characters_do_nothing() -> None:
    console = Console(width=80, record=True, force_terminal=False)
    console.print(table_of(["id"], [["[red]x"], ["\x1b[31mred\x07"], ["a caption\n"]], title="[/bold]"))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines == ["[/bold]", "id", "[red]x", "\\x1b[31mred\\x07", "a caption"]


def test_numbers_stand_at_the_right() -> None:
    names = ["place", "label", "cosine", "clip_score", "logit", "sigmoid"]
    justified = {column.header: column.justify for column in table_of(names, []).columns}
    assert justified == {**dict.fromkeys(names, "right"), "label": "left"}
