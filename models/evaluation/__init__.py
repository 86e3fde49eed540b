"""Evaluation of a model on users that it was not fitted on.

In reading order:

- `split`: which users are fitted on, and which judgements are held out
- `few_shot`: predictions after k of a new user's judgements
- `report`: accuracy, log-loss, calibration and harm, with intervals
- `comparison`: whether a new model is better than the one in use
"""
