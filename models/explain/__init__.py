"""Why a text ranks where it does, and what a user likes, in words.

In reading order:

- `departure`: how a user departs from the population, and how sure that is
- `text_map`: what the features of a text are worth in the space of taste
- `explanation`: a candidate's utility, part by part
- `reasons`: what sets a user apart, in words and texts
- `tastes`: coordinates of users that mean the same in every fit
- `text_sample`: what a position in the space of taste makes of texts
- `inspection`: what a whole fitted model holds
"""
