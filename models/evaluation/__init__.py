"""How well a model predicts users that it has not seen.

In reading order:

- `split`: who is seen, and what is held out
- `few_shot`: predictions after k of a new user's judgements
- `report`: accuracy, log-loss, calibration and harm, with their intervals
- `comparison`: whether a new model is better than the one in use
"""
