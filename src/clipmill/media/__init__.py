"""Fetching, decoding and preprocessing, bounded in bytes, pixels and time.

- `fetch`: a URI's bytes, within limits; `fetch_policy`: those limits; `uri`: reading URIs; `web`: the client that
  checks addresses
- `options`: how a model wants its images and sounds, and how files are decoded
- `crops`: from an image's content to the crop that a model's graph begins with, exactly or fast
- `images`: any image content as a Pillow image; `jpeg`: JPEG files by libjpeg-turbo; `preprocess`: resizing, cropping
- `audio`: any sound content as samples, at a model's sample rate
- `thumbnails`: small JPEG files to look at
"""
