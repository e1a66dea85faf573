"""The commands, one file each: options in, one call, and what is printed."""
