"""What the tests of metrics share: the numbers of a scrape."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return what a scrape says: by name and by the values of its labels, but for those of the whole scrape."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name not in ("dataset", "pid"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
