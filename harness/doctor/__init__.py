"""What this machine can build and run, found out by doing a little of it, and how to add what is missing."""
