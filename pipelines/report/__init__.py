"""`clipmill report`: one page about a dataset or an index, which needs nothing but itself to be looked at.

- `page`: what stands on it, and the file; `page.html`: how it looks
- `plots`: its plots, by Bokeh; `words`: numbers, times and bytes as people read them
- `provenance`: where vectors come from, as a table
"""
