"""What every command does alike: how it reads its arguments, what --help says, and with which status it ends.

flags      from a configuration's fields to flags, and from their texts to a configuration
command    one command: its help, its version, its usage errors
ending     from what was raised to a line on stderr and an exit status
paper      tables on stdout
version    which Maeve this is

Imports neither torch nor numpy, so that `--help` answers at once.
"""
