"""Plans: what is done with a row or a document, the same for every engine.

- `plan`: what plans have in common; `row_values`: how they read a row
- `columns`, `document_plan`: what of a row or document is embedded, and where the vectors go
- `kinds`, `rank_plan`: what of them is ranked, and where the scores go; `ranking`: the candidates of a query, ranked
- `labels`, `classify_plan`: zero-shot classification
- `scores`: cosines and clip_scores of vectors
- `runner`: `PlanRunner`, which takes rows through a plan and a session
"""
