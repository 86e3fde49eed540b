"""The languages that ranking clients speak."""
