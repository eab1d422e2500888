"""What everything may use: errors, the log, paths, names, code of one's own."""
