"""The vocabulary that every stage shares; imports nothing of the project but itself."""
