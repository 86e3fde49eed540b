"""From a posterior and items to an order.

In reading order:

- `selection`: probabilities and order for one user
- `scores`: many users and many items in one product
"""
