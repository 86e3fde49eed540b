"""What users said about texts."""
