"""What a user types: the `main` of every command."""
