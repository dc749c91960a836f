"""What is counted, under which names, and how it leaves the process.

- `counts`: the table of all metrics, and a process's totals; `stats`: what one session counts
- `exposition`: the totals in the format of Prometheus: as text, in a file, or on a port
- `told_process`: a process that its environment tells to write or serve them
"""
