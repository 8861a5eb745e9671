"""Teams whose agents decide one after another."""
