"""What a user types: `main(argv)` of every command."""
