"""Metrics: their names, the counts, and their export.

- `counts`: the table of all metrics, and the totals of a process; `stats`: the counts of one session
- `prometheus_text`: the totals in Prometheus' text format: as text, in a file, or on a port
- `env_exporter`: starts the export in processes that have an environment variable for it
"""
