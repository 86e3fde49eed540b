"""Personalization: few-shot learning curves of penchant and its peers on every data set and split.

    python -m benchmarks.personalization --data FOLDER

A *cell* is one (part, set, split, repetition, system). Its result is a small file in the cache folder, written as soon
as it is computed, under a key made from the code, the options and the data. An interrupted run resumes, and only
results whose key has changed are computed again.

In reading order:

- `data`: sets and their hashes
- `features`: features, encoded once
- `task`: one repetition of a split, as every system gets it
- `systems`: predictions by system name
- `ours`: penchant as a system; the peers are in `benchmarks.peers`
- `cells`: keys, files, and the processes that fill them
- `plan`: the cells of a run
- `probes`, `robustness`, `control`, `speed`: the parts beside the learning curves
- `metrics`, `harm`: user-mean accuracy, log-loss, two-way bootstrap, harm
- `summary`, `targets`, `markdown`, `pictures`, `report`: JSON, Markdown and pictures
- `run`: a whole run
"""
