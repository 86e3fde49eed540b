"""Quality and speed against peers: one command each, results as JSON and Markdown. Of the repository, not the wheel."""
