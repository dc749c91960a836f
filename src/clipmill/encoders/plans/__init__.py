"""Plans: the operations on rows and documents, the same for every engine.

- `plan`: the base classes of plans; `row_values`: reading values from a row
- `runner`: `PlanRunner`, which runs rows through a plan and a session
- `embed_plan`: embeds columns of rows; `document_embed_plan`: documents of a tree; `value_plan`: single values
- `fusion`: one weighted vector of several columns; `heads`: linear heads, which score vectors
- `rank_plan`, `pair_plan`: score candidates in a list, in matches, or one per row
- `similarity_plan`: scores of pairs, and rejected rows; `pairs`: what it shares with `pair_plan`
- `kinds`: converts queries and candidates to items; `ranking`: ranks the candidates of a query
- `classify_plan`, `labels`: zero-shot classification
- `scores`: cosines and clip_scores of vectors
"""
