"""The pages of the documentation, and the programs that write what is measured or listed in them."""
