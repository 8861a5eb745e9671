"""What a team needs to act, and nothing that only learning needs: no value, no critic, no Ray."""
