"""The content of a dataset's files as Arrow tables.

- `table`: converts finished rows or documents to record batches; `schemas`: their schemas and record batches
- `new_columns`: types and values of the columns that plans add; `column_types`: types of the input columns
- `python_values`: Python values as Arrow values of a declared type
- `carried`: columns that go from the input to the output as Arrow values
- `schema_mismatches`: rows that do not fit a schema; `records`: failures as they are written
- `vectors`: Arrow arrays of vectors; `scalars`: single Arrow values; `sizes`: memory of values, and batch limits
- `provenance`: the model and options that made a column, in Arrow's metadata and in Spark's (`spark_schema`);
  `hugging_face_features`: the features of `datasets` in a schema's metadata
"""
