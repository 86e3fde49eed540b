"""Learning the shared model from many users' judgements, on torch."""
