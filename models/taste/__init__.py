"""The user model: the posterior of a user's taste, and its update by a judgement. numpy and scipy only.

In reading order:

- `items`: texts as the user model sees them, and their keys
- `population`: the prior over users, a mixture of archetypes
- `match_basis`: functions of the match of a prompt and a text
- `gate`: taste that depends on the kind of prompt
- `text_prior`: the distribution of an item given its text
- `exact_product`: products that do not depend on how many texts are described together
- `observations`: judgements as the user model sees them, winner first
- `reward`: from feature vectors to items
- `observing`: from judgements to observations
- `posterior`: the posterior of one user, and detection of a changed user
- `likelihood`: the evidence of a judgement, one Gaussian site
- `linear_predictor`: what a pair, vote or rating depends on, and its distribution
- `logistic`: the logistic likelihood and its Gaussian bound
- `listwise`: the likelihood of choices and rankings
- `cohort`: many users learned at once, for evaluations
- `fixed_points`: fixed-point iteration, and a count of failures to converge
- `sobol`: quasi-random draws that are the same on every call
"""
