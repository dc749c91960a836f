"""Fetching, decoding and preprocessing, bounded in bytes, pixels and time.

- `fetch`: a URI's bytes, within limits; `uri`: reading URIs; `web`: the client that checks addresses
- `crops`: from an image's content to the crop that a model's graph begins with, exactly or fast
- `images`: any image content as a Pillow image; `jpeg`: JPEG files by libjpeg-turbo; `preprocess`: resizing, cropping
- `thumbnails`: small JPEG files to look at
"""
