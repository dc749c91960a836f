"""Plans: what is done with a row or a document, the same for every engine.

- `plan`: what plans have in common; `row_values`: how they read a row
- `runner`: `PlanRunner`, which takes rows through a plan and a session
- `embed_plan`: columns of rows, or documents of a tree, become vectors
- `rank_plan`, `pair_plan`: candidates in a list, in matches, or one in each row get scores
- `kinds`: what values are ranked as; `ranking`: the candidates of a query, ranked
- `classify_plan`, `labels`: zero-shot classification
- `scores`: cosines and clip_scores of vectors
"""
