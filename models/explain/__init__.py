"""Why a text ranks where it does, and what a user likes, in words."""
