"""Recurrent agents with a central action value."""
