"""Ranking: from a posterior and items to scores, probabilities and an order.

In reading order:

- `selection`: probabilities and the order for one user
- `scores`: utilities of many items for many users in one matrix product
- `personalization`: rankings between the population's and the user's
"""
