"""Fetching, decoding and preprocessing, bounded in bytes, pixels and time.

- `fetch`: fetches the bytes of a URI; `fetch_policy`: the limits of a fetch; `uri`: parses URIs; `buckets`: the
  bucket or repository that one names; `web`: the HTTP client, which checks addresses
- `options`: how a model preprocesses images and audio, and how files are decoded
- `crops`: decodes an image and crops it to the uint8 input of a model's graph, exactly or fast
- `containers/`: removes the parts of image files that hold no pixels, and refuses those that keep decoders busy
- `images`: opens any image content as a Pillow image; `plugins`: HEIF and JPEG XL files, by optional libraries; `jpeg`:
  decodes JPEG files with libjpeg-turbo; `preprocess`: resizes and crops, by `byte_resizing` where
  it applies
- `audio`: decodes any audio content and resamples it to a model's sample rate; `mel`: spectrograms of it
- `thumbnails`: makes small JPEG files for reports
"""
