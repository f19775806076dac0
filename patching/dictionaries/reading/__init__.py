"""Published dictionaries, a file for each format; `found` tells which one a folder is of."""
