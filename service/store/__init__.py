"""Durable state: tables, feedback log, user states."""
