"""Speed, measured: each module is a command. Nothing here is a test."""
