"""From a text to the vector that the user model reads.

In reading order:

- `attributes`: interpretable attributes of a text: length, style, form
- `encoder`: the protocol of text encoders
- `match`: what a text is to its prompt
- `features`: embedding and attributes as one vector, with its content key
- `loading`: from a name to an encoder
- `model_files`: where a model's files are, and what is known of it without its weights
- `pretrained`: a transformer's weights on torch
- `tokens`: from texts to token numbers
- `batches`: texts of similar length together
- `backends`: implementations of the forward pass
- `transformer`: any transformer as an encoder
- `cross_encoder`: scores of prompt and text by a sequence classifier
- `extract`: features of every text of a data set
- `hashing`: an encoder without weights, for tests
"""
