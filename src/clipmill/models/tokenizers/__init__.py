"""Tokenizers, which turn a text into token ids.

- `clip_bpe`: CLIP's byte-pair encoding, without torch, bounded in time and memory
- `fast`, `repository`: Hugging Face's tokenizers, from the files of a repository
- `cleaning`: functions that clean a text before it is tokenized, by name
- `saved`: saves tokenizers to a directory, and loads them
"""
