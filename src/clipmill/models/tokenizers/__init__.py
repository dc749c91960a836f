"""From text to token ids.

- `clip_bpe`: CLIP's byte-pair encoding, without torch, bounded in time and memory
- `fast`, `repository`: Hugging Face's tokenizers, from the files of a repository
- `cleaning`: what is done to a text before, by name
- `saved`: tokenizers stored in a directory
"""
