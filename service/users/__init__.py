"""What is known of each user: states learned from the log."""
