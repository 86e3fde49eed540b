"""From an event that arrives to the log and to what is learned from it."""
