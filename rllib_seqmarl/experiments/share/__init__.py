"""Policies as files that are safe to share."""
