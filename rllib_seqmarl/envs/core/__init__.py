"""The interface of all environments and what they share."""
