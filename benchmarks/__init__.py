"""What the project costs in time and memory beside what else there is: declared in `registry`, measured by `run`, shown by
`table`."""
