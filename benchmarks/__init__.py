"""What the project costs in time and memory beside what else there is: `registry` declares, `run` measures, `table`
shows."""
