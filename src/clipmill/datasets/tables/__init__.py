"""What stands in the files of a dataset.

- `schemas`: schemas and record batches of documents and of rows; `misfits`: what does not fit
- `layouts`, `document_layouts`: how the results of each plan stand in them; `column_types`: the columns there were
- `records`: failures as they are written
- `vectors`: arrays of vectors, built from buffers; `scalars`: one value out of Arrow; `sizes`: how much is held
- `provenance`: which model and which options made a column, in Arrow's metadata and in Spark's (`spark_schema`)
"""
