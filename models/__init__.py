"""The mathematics of personal preference: judgements in, taste and rankings out. No HTTP, SQL, clock or settings.

In reading order:

- `judgements`: what users said about texts
- `taste`: the user model: what a person likes, how sure that is, and how a judgement changes it
- `encoding`: from a text to the vector that the user model reads
- `ranking`: from a posterior and items to an order
- `explain`: why a text ranks where it does, and what a user likes, in words
- `evaluation`: how well a model predicts users that it has not seen
- `fitting`: learning the shared model from many users' judgements, on torch
- `bundle`: a trained model on disk, and its version
- `training`: from judgements to a bundle, and to a report: what the command line does
- `export`: a bundle as plain arrays, for use without penchant
- `checkpoint`: what long work has finished, so that it can be interrupted
- `files`: files that are written whole or not at all
- `errors`: the base class of the errors in this package
- `testing`: a small model whose truth is known, for tests
"""
