"""Learning the shared model from many users' judgements, on torch.

In reading order:

- `relevance`: how much an answer to the question is worth
- `dataset`: judgements as index tensors
- `variational`: beliefs about users, items and rating scales
- `logistic`: the bound of votes and comparisons
- `messages`: the evidence of judgements about users and items
- `mixture`: the archetypes
- `text_fit`: the text prior
- `reliability`: which labels are correct, and a cap on the influence of one account
- `state`: the options and the whole state of a fit
- `em`: the rounds of a fit
- `assemble`: from the state of a fit to a reward model
- `taste_families`: fixed directions of taste beside the learned ones
- `gates`: which kinds of prompt taste depends on, and how much
- `held_out`: the held-out users that a choice rests on
- `tuning`: the choice of rank, archetypes and tastes on held-out users and texts
"""
