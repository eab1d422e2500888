"""What every layer may use: errors, the log, paths, names, imports of users' own code."""
