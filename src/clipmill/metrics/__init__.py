"""What is counted, under which names, and how it leaves the process.

- `counts`: the table of all metrics, and a process's totals; `stats`: what one session counts
- `prometheus_text`: the totals in the format of Prometheus: as text, in a file, or on a port
- `env_exporter`: writes or serves them in a process whose environment says so
"""
