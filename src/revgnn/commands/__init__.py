"""The commands of the command line: one module per command, with a function ``run(arguments)``"""
