"""From texts to features, with the encoder shared fairly between requests.

In reading order:

- `featurizer`: gets the features of texts from memory, the store, or the encoder
- `fair_queue`: decides which texts are encoded next
- `batching`: merges requests into batches, and runs the encoder in its own thread
- `relevance`: gets the scores of the operator's cross-encoder from memory or a batch
"""
