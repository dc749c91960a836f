"""The plots of a page. Untrusted text is only shown on hover, and Bokeh escapes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import MissingExtraError
from ..indexes.manifest import Recall, SearchParameters
from .histograms import Histogram
from .pictures import Picture
from .sample import Entry
from .vectors import VectorSection
from .work import Rate

try:
    from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, NumeralTickFormatter, Range1d
    from bokeh.models.annotations import Span
    from bokeh.plotting import figure
except ImportError as err:
    raise MissingExtraError("bokeh", "report", "a page with plots") from err

BLUE, ORANGE, GREY, GREEN = "#3f83d8", "#e0803a", "#8b929c", "#3d9f70"
"""Seen on white and on black."""
_HEIGHT, _MAP_HEIGHT = 260, 600
_MOST_DRAWN, _DRAWN = 200, 34
"""Rows of a sample up to which pictures are drawn on the map themselves, and pixels of their longer side."""
_NAME = '<div class="clipmill-name">@name</div>'
_HOVER_PICTURE = f'<div class="clipmill-hover"><img src="@picture" alt="">{_NAME}</div>'
_HOVER_TEXT = f'<div class="clipmill-hover"><div class="clipmill-text">@text</div>{_NAME}</div>'
_HOVER_CSS = """
.clipmill-hover { width: 190px; overflow-wrap: anywhere; white-space: normal; line-height: 1.35; }
.clipmill-hover img { display: block; max-width: 190px; max-height: 128px; margin: 2px auto 6px; border-radius: 3px; }
.clipmill-text { max-height: 8em; overflow: hidden; margin-bottom: 4px; }
.clipmill-name { opacity: 0.75; font-size: 11px; }
"""


def _figure(x_label: str, y_label: str, *, height: int = _HEIGHT, tools: str = "", **options: Any) -> Any:
    """Return an empty plot that takes its colours from the page."""
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        min_width=200,
        tools=tools,
        x_axis_label=x_label,
        y_axis_label=y_label,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        output_backend="canvas",
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.toolbar.active_drag = None  # a finger on a plot scrolls the page
    if not tools:
        plot.toolbar_location = None
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "12px"
        axis.major_label_text_font_size = "11px"
        axis.minor_tick_line_color = None
        axis.major_tick_out = 4
        axis.major_tick_in = 0
    plot.xgrid.visible = False
    return plot


def _bars(plot: Any, edges: np.ndarray, tops: np.ndarray, tips: Sequence[tuple[str, str]], **options: Any) -> None:
    """Draw what lies between edges, with what hovering says."""
    source = ColumnDataSource({"left": edges[:-1], "right": edges[1:], "top": tops, **options.pop("more", {})})
    bars = plot.quad(
        left="left", right="right", bottom=0, top="top", source=source, line_color=None, hover_fill_alpha=1.0, **options
    )
    plot.add_tools(HoverTool(renderers=[bars], tooltips=list(tips), mode="vline", point_policy="follow_mouse"))


def rate_plot(rate: Rate) -> Any:
    """Return rows a second over time (UTC)."""
    plot = _figure("time (UTC)", "rows a second", x_axis_type="datetime")
    plot.xaxis.ticker.desired_num_ticks = 4  # more run into each other on phones
    edges = rate.edges * 1000.0
    tips = [("from", "@left{%F %T}"), ("rows a second", "@top{0,0.0}")]
    _bars(plot, edges, rate.per_second, tips, fill_color=BLUE, fill_alpha=0.85)
    plot.select_one(HoverTool).formatters = {"@left": "datetime"}
    plot.y_range.start = 0
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    return plot


def histogram_plot(found: Histogram, x_label: str, y_label: str = "vectors", colour: str = BLUE) -> Any:
    """Return a histogram."""
    plot = _figure(x_label, y_label)
    tips = [(x_label, "@left{0.0000} to @right{0.0000}"), (y_label, "@top{0,0}")]
    _bars(plot, found.edges, found.counts, tips, fill_color=colour, fill_alpha=0.85)
    plot.y_range.start = 0
    _count_whole(plot.yaxis)
    return plot


def threshold_plot(found: Histogram, x_label: str, threshold: float | None) -> Any:
    """Return a histogram of scores of rows, with a line at the least score that was kept, also where no row is."""
    plot = histogram_plot(found, x_label, "rows")
    if threshold is not None:
        top = float(max(found.counts.max(initial=0), 1))
        name = f"min_score {threshold:g}"
        plot.line([threshold, threshold], [0.0, top], line_color=ORANGE, line_width=2, legend_label=name)
        _style_legend(plot)
    return plot


def shares_plot(histograms: Mapping[str, Histogram], x_label: str, y_label: str) -> Any:
    """Return histograms over each other, each as shares of its own total for a step of 0.01, so that they compare."""
    plot = _figure(x_label, y_label)
    for (name, found), colour in zip(histograms.items(), (BLUE, ORANGE), strict=False):
        widths = np.diff(found.edges)
        heights = found.counts / max(1, found.total) / np.where(widths > 0, widths, 1.0)  # 100 % over 0.01: a density
        tips = [("", name), (x_label, "@left{0.000} to @right{0.000}"), ("number", "@count{0,0}")]
        more = {"count": found.counts}
        _bars(plot, found.edges, heights, tips, fill_color=colour, fill_alpha=0.6, legend_label=name, more=more)
    plot.y_range.start = 0
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[0]")
    _style_legend(plot)
    return plot


def _style_legend(plot: Any) -> None:
    legend = plot.legend[0]
    legend.background_fill_color = None
    legend.border_line_color = None
    legend.label_text_font_size = "12px"
    legend.stylesheets = [".bk-label { color: var(--soft) !important; }"]
    legend.orientation = "vertical"  # beside each other they are cut off on phones
    legend.spacing = 0
    legend.padding = 0
    legend.margin = 4
    plot.add_layout(legend, "above")


def batches_plot(batch_rows: Mapping[int, int]) -> Any:
    """Return how many calls of the model had how many rows."""
    plot = _figure("rows in a call of the model", "calls")
    source = ColumnDataSource({"rows": list(batch_rows), "calls": list(batch_rows.values())})
    bars = plot.vbar(x="rows", top="calls", width=0.85, source=source, color=BLUE, alpha=0.85)
    tips = [("rows in a call", "@rows{0,0}"), ("calls", "@calls{0,0}")]
    plot.add_tools(HoverTool(renderers=[bars], tooltips=tips, mode="vline"))
    plot.x_range = Range1d(start=0, end=max(batch_rows) + 1)
    plot.y_range.start = 0
    _count_whole(plot.axis)
    return plot


def _count_whole(axis: Any) -> None:
    """Put whole numbers on an axis, each once."""
    axis.formatter = NumeralTickFormatter(format="0,0")
    axis.ticker = BasicTicker(min_interval=1)


def map_plot(section: VectorSection) -> Any:
    """Return the sample in two dimensions; hovering shows what each point is."""
    projection = section.projection
    labels = ["first dimension (UMAP)", "second dimension (UMAP)"]
    if projection.explained is not None:
        first, second = (f"{100 * part:.0f} % of the variance" for part in projection.explained)
        labels = [f"first axis ({first})", f"second axis ({second})"]
    plot = _figure(*labels, height=_MAP_HEIGHT, tools="pan,wheel_zoom,box_zoom,reset")
    doubled = {entry.position for pair in section.duplicates.pairs for entry in (pair.first, pair.second)}
    kinds: dict[str, list[int]] = {}
    for point, number in enumerate(projection.numbers.tolist()):
        kinds.setdefault(_kind(section, section.sample.entries[number]), []).append(point)
    for kind, colour in (("pictures", BLUE), ("texts", ORANGE), ("others", GREY)):
        if kind in kinds:
            _points(plot, section, kinds[kind], doubled, kind, colour)
    if len(kinds) > 1:
        _style_legend(plot)
    elif plot.legend:
        plot.legend.visible = False
    return plot


def _kind(section: VectorSection, entry: Entry) -> str:
    if entry.text is not None:
        return "texts"
    return "pictures" if section.picture(entry).jpeg is not None else "others"


def _points(plot: Any, section: VectorSection, points: list[int], doubled: set[int], kind: str, colour: str) -> None:
    """Draw the points of one kind; if there are few, their pictures are drawn behind the points."""
    projection = section.projection
    entries = [section.sample.entries[number] for number in projection.numbers[points].tolist()]
    pictures = [section.picture(entry) for entry in entries]
    are_drawn = kind == "pictures" and len(section.sample.entries) <= _MOST_DRAWN
    data: dict[str, Any] = {
        "x": projection.points[points, 0],
        "y": projection.points[points, 1],
        "name": [entry.name for entry in entries],
        "line": [GREEN if entry.position in doubled else colour for entry in entries],
        "width": [2.0 if entry.position in doubled else 0.5 for entry in entries],
        "edge": [1.0 if entry.position in doubled or not are_drawn else 0.0 for entry in entries],
    }
    if kind == "pictures":
        data["picture"] = [one.data_uri for one in pictures]
    else:
        data["text"] = [
            entry.text or one.reason or entry.uri or "" for entry, one in zip(entries, pictures, strict=True)
        ]
    if are_drawn:
        sizes = [_drawn_size(one) for one in pictures]
        data |= {"w": [width for width, _ in sizes], "h": [height for _, height in sizes]}
    source = ColumnDataSource(data)
    if are_drawn:
        screen = {"w_units": "screen", "h_units": "screen", "anchor": "center"}
        plot.image_url(url="picture", x="x", y="y", w="w", h="h", source=source, **screen)
    drawn = plot.scatter(
        x="x",
        y="y",
        source=source,
        size=_DRAWN if are_drawn else 9 if len(section.sample.entries) < 500 else 6,
        marker="square" if are_drawn else "circle",
        fill_color=colour,
        fill_alpha=0.0 if are_drawn else 0.55,
        line_color="line",
        line_width="width",
        line_alpha="edge",
        legend_label=kind,
    )
    look = f"<style>{_HOVER_CSS}</style>" + (_HOVER_PICTURE if kind == "pictures" else _HOVER_TEXT)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=look, limit=1, description=f"hover over {kind}"))


def _drawn_size(picture: Picture) -> tuple[int, int]:
    """Return the width and height in pixels at which a thumbnail is drawn on the map."""
    width, height = picture.size or (1, 1)
    scale = _DRAWN / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def recall_plot(recall: Recall) -> Any:
    """Return recall against speed for every measured setting; the chosen one is highlighted."""
    plot = _figure("queries a second", f"recall@{recall.k}", height=320, x_axis_type="log")
    steps = sorted(recall.curve, key=lambda step: step.queries_per_second)
    speeds, recalls = [step.queries_per_second for step in steps], [step.recall for step in steps]
    source = ColumnDataSource({"speed": speeds, "recall": recalls, "how": [settings(step.search) for step in steps]})
    plot.add_layout(
        Span(location=recall.target, dimension="width", line_color=GREEN, line_dash="dashed", line_width=1.5)
    )
    plot.line(x="speed", y="recall", source=source, color=BLUE, line_width=1.5, alpha=0.6)
    drawn = plot.scatter(x="speed", y="recall", source=source, size=9, color=BLUE)
    plot.scatter(
        x=[recall.queries_per_second], y=[recall.recall], size=17, fill_color=None, line_color=ORANGE, line_width=2.5
    )
    tips = [("", "@how"), (f"recall@{recall.k}", "@recall{0.0000}"), ("queries a second", "@speed{0,0}")]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=tips))
    low = min([recall.target, recall.recall, *recalls])
    plot.y_range = Range1d(start=max(0.0, low - 0.05 * (1.05 - low)), end=1.0 + 0.03 * (1.05 - low))
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    return plot


def settings(search: SearchParameters) -> str:
    """Return search parameters as a user gives them."""
    given = [f"{name}={value}" for name, value in dataclasses.asdict(search).items() if value is not None]
    return ", ".join(given) or "every vector is compared"
