"""What stands in the files of a dataset.

- `table`: rows or documents with what was made of them, as files hold them; `schemas`: their schemas and record batches
- `new_columns`: how the columns that plans add stand in them; `column_types`: the columns there were
- `schema_mismatches`: rows that do not fit a schema; `records`: failures as they are written
- `vectors`: arrays of vectors, built from buffers; `scalars`: one value out of Arrow; `sizes`: how much is held
- `provenance`: which model and which options made a column, in Arrow's metadata and in Spark's (`spark_schema`)
"""
