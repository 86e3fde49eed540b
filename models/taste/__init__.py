"""The user model: what a person likes, how sure that is, and how a judgement changes it. numpy and scipy only.

In reading order:

- `items`: texts as the user model sees them
- `population`: the prior over users, a mixture of archetypes
- `observations`: what a user said of items, winner first
- `likelihood`: what each kind of judgement says of a user: one Gaussian site
- `contrast`: pairs, votes and ratings, which are about one number
- `listwise`: choices and rankings
- `beliefs`: a user beside a stranger, which every site is taken under
- `sites`: what one judgement adds, and what is believed with it
- `posterior`: what is known of one user
- `change_detection`: whether the user has changed
- `text_prior`: what a text alone says of its item
- `reward`: from feature vectors to items, and from judgements to observations
- `cohort`: many users learned at once, for evaluations
- `numerics`: fixed points, and draws that are the same on every call
- `sobol`: the quasi-random points behind those draws
- `rescues`: counts of iterations that did not converge
"""
