"""Relevance: does a ranking answer the question, and does a user's taste change it without spoiling it?

    python -m benchmarks.relevance --data FOLDER

Every figure is measured through HTTP against a server that is started for it. With `--in-process` the rankings and the
planted users are computed by the model itself, which takes seconds and serves to try out a bundle.

In reading order:

- `questions`: question sets with relevance labels, and `facts.jsonl`, the set written for this benchmark
- `metrics`: nDCG, reciprocal rank, their values at chance, bootstrap intervals
- `baselines`: BM25 and the cosine of the encoder
- `styles`: planted users, who like more or less of an attribute, and their judgements
- `plan`: the sets, planted users and wrong questions of a run
- `rankers`: who ranks: a server, or a model in this process
- `study`: the rankings that several parts share
- `features`: feature vectors, computed once
- `rankings`, `users`, `timing`, `swapped_queries`, `swapped_prompts`: the parts
- `report`: JSON and Markdown
- `run`: a whole run
"""
