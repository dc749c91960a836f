"""Runnable jobs and the command line, which only connect the other rooms.

- `cli`: the list of commands; `commands`: commands and their group, which imports them when they are used; `options`:
  their flags, made from the fields of `EncoderSpec`; `cli_messages`: messages with flags instead of keywords;
  `console`: the terminal
- `jobs`: the common part of `embed`, `rank`, `score` and `classify`; `engines`: runs shards on Beam or Spark;
  `spark_session`: the master and settings of Spark
- `interrupts`: the end of a command by a signal; `limits`: memory and open files
- `outcome`: summary and exit code; `dry_run`: `--dry-run`; `input_notes`: what a job makes of its input;
  `skip_existing`: `--skip-existing`
- `job_metrics`: `--metrics`
- `embed`, `rank`, `score`, `classify`: the plan of each command, and its output without a job; `listed`: files given by
  name
- `embed_command`: the command `embed`; `score_commands`: the commands `rank`, `score` and `classify`
- `index_command`, `index`: the command `index`
- `plan_command`, `plan`: the command `plan`; `survey`: lists an input and measures a sample of it
- `push_command`: the command `push`
- `search_command`, `search`: the command `search`
- `report_commands`: the commands `report` and `summary`; `summary`: `summary(documents)`, and what the latter prints
- `model_commands`: the commands `models`, `doctor` and `export`; `models`, `doctor`, `export`: what they do
- `check`: a verdict of `doctor` with its finding; `machine_checks`, `network_checks`, `package_checks`,
  `runtime_checks`: what it examines
- `first_use`: loads models, with the `bars` of what takes long; `clipmill models --prepare`
- `demo`: what `make demo` runs; `gallery`: its pictures; `drawings`: pictures of coloured shapes, and captions
"""
