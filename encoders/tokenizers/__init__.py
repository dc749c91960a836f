"""From text to token ids.

- `clip_bpe`: CLIP's byte-pair encoding, without torch, bounded in time and memory
- `hub`: the tokenizers of Hugging Face, as open_clip wraps them
"""
