"""What the commands of `xamc` do; `xamc.cli.main` holds their options. Imported only when a command runs."""
