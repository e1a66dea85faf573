"""Text that people write and read: names that are compared, addresses that are shown, packages that are missing."""
