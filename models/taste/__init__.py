"""The user model: what a person likes, how sure that is, and how judgements change it."""
