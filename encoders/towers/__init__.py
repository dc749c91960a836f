"""The networks: one loader for each family of models.

- `open_clip`: every architecture of open_clip, with published weights, a file of one's own, or a repository's
- `weights`: reading weight files safely, and their hashes
- `hub`: files of Hugging Face repositories
"""
