"""A user's rights: to see, take along, move and delete what is stored."""
