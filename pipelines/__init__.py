"""Runnable jobs and the command line: wiring only.

- `cli`: the commands; `options`: their flags, made from the spec's fields; `console`: what they print
- `embed`: `clipmill embed`; `engines`: running its shards on Beam or on Spark
- `summary`: `summary(documents)` and `clipmill summary`; `models`, `doctor`: the commands of those names
- `demo`: what `make demo` runs; `gallery`: its pictures and the contact sheet
"""
