"""Fetching, decoding and preprocessing, bounded in bytes, pixels and time.

- `fetch`: a URI's bytes, within limits; `uri`: reading URIs; `web`: the client that checks addresses
- `images`: any image content as a Pillow image; `preprocess`: the crop that a model's graph begins with
"""
