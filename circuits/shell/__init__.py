"""The commands of the shell: what each asks for, does and prints."""
