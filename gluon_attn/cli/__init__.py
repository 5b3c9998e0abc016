"""Commands: flags, exit codes, and what each command composes."""
