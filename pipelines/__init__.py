"""Runnable jobs and the command line, which only connect the other rooms.

- `cli`: the commands; `options`: their flags, made from the fields of `EncoderSpec`; `cli_messages`: messages with
  flags instead of keywords; `console`: the terminal
- `jobs`: the common part of `embed`, `rank`, `score` and `classify`; `engines`: runs shards on Beam or Spark;
  `spark_session`: the master and settings of Spark
- `interrupts`: the end of a command by a signal; `limits`: memory and open files
- `outcome`: summary and exit code; `dry_run`: `--dry-run`; `input_notes`: what a job makes of its input;
  `skip_existing`: `--skip-existing`
- `job_metrics`: `--metrics`
- `embed`, `rank`, `score`, `classify`: the plan of each command, and its output without a job; `listed`: files given by
  name
- `score_commands`: the commands `rank`, `score` and `classify`
- `index_command`, `index`: the command `index`
- `push_command`: the command `push`
- `search_command`, `search`: the command `search`; `report_command`: the command `report`
- `summary`: `summary(documents)` and `clipmill summary`; `models`, `doctor`, `export`: the commands of those names
- `demo`: what `make demo` runs; `gallery`: its pictures; `drawings`: pictures of coloured shapes, and captions
"""
