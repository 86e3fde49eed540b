"""How well a model predicts users it has not seen."""
