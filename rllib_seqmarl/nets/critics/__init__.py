"""Central critics and the credit that is read from them."""
