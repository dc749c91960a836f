"""Tokenizers, which turn a text into token ids.

- `clip_bpe`: CLIP's byte-pair encoding, without torch, bounded in time and memory
- `fast`: Hugging Face's tokenizers; `repository`: from the files that open_clip names, `hugging_face`: from those of a
  model of transformers
- `cleaning`: functions that clean a text before it is tokenized, by name
- `saved`: saves tokenizers to a directory, and loads them
"""
