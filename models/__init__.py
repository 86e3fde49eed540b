"""The mathematics of personal preference, from judgements to taste and rankings. No HTTP, SQL, clock or settings.

In reading order:

- `judgements`: what users said about texts
- `taste`: the user model: what a person likes, how sure that is, and how a judgement changes it
- `encoding`: from a text to its feature vector
- `ranking`: from a posterior and items to an order
- `explain`: why a text ranks where it does, and what a user likes, in words
- `evaluation`: how well a model predicts users that it has not seen
- `fitting`: learning the shared model from many users' judgements, on torch
- `bundle`: a trained model on disk, and its version
- `training`: from judgements to a bundle or to an evaluation report
- `export`: a bundle as plain arrays, for use without penchant
- `checkpoint`: progress callbacks and checkpoints of long work, so that it can be interrupted
- `files`: atomic writes
- `errors`: the base class of the errors in this package
- `testing`: a small model for tests
"""
