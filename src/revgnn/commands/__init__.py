"""What the command line does: one file for each command, with one function that takes the words that `cli` parsed."""
