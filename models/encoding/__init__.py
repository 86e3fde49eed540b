"""From a text to the vector that the user model reads.

In reading order:

- `attributes`: what a person could name in a text: length, style, form
- `encoder`: the protocol of text encoders
- `features`: embedding and attributes as one vector, with its content key
- `loading`: from a name to an encoder that is ready
- `files`: where a model's files are
- `card`: facts about a transformer that are needed beside its weights
- `pretrained`: its weights on torch
- `tokens`: from texts to token numbers
- `batches`: texts of similar length together
- `workers`: threads that compute batches side by side
- `backends`: what computes the forward pass
- `transformer`: any transformer as an encoder
- `extract`: features of every text of a data set
- `hashing`: an encoder without weights, for tests
"""
