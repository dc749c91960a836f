"""Runnable jobs and the command line: wiring only.

- `cli`: the commands; `options`: their flags, made from the spec's fields; `console`: what they print
- `score_commands`: the commands `rank` and `classify`
- `jobs`: what `embed`, `rank` and `classify` share; `engines`: running their shards on Beam or on Spark
- `outcome`: summary and exit code; `dry_run`: `--dry-run`; `skip_existing`: `--skip-existing`
- `job_metrics`: `--metrics`
- `embed`, `rank`, `classify`: what each asks of a job, and what it prints without one; `listed`: files named one by one
- `index_command`, `index`: the command `index`
- `search_command`, `search`: the command `search`; `report_command`: the command `report`
- `summary`: `summary(documents)` and `clipmill summary`; `models`, `doctor`: the commands of those names
- `demo`: what `make demo` runs; `gallery`: its pictures; `drawings`: pictures of coloured shapes, and captions
"""
