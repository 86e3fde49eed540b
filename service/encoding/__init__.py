"""From texts to features, each request in its turn.

In reading order:

- `featurizer`: features by the cheapest way: memory, the store, or the encoder
- `fair_queue`: whose turn it is
- `batching`: the threads that feed and own the encoder
"""
