"""The wire: HTTP requests and answers."""
