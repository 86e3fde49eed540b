"""Explanations: why a text ranks where it does, and what a user likes, in words.

In reading order:

- `deviation`: how a user deviates from the population, with uncertainty
- `text_map`: the linear map from the features of a text to the space of taste
- `qualities`: what a text can have more or less of, closeness to the question included
- `explanation`: the parts of a candidate's utility
- `reasons`: how a user differs from the population, in words and texts
- `tastes`: coordinates of users that do not depend on the fit
- `text_sample`: texts as evaluated by a position in the space of taste
- `inspection`: the content of a fitted model, in words
"""
