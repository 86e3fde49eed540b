"""Learning the shared model from many users' judgements, on torch.

In reading order:

- `dataset`: judgements as index tensors
- `variational`: what is known of users, items and rating scales
- `logistic`: the bound of votes and comparisons
- `messages`: what judgements say of users and of items
- `mixture`: the archetypes
- `text_fit`: the text prior
- `reliability`: whose labels are right, and how far one account may move what all share
- `state`: all that a fit holds, and what it can be started with
- `em`: the rounds of a fit
- `assemble`: from the state of a fit to the reward model that serves
- `taste_families`: fixed directions of taste beside the learned ones
- `tuning`: rank, archetypes and tastes chosen on held-out users and texts
"""
