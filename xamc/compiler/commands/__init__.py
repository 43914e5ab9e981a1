"""What the commands of `xamc` do; `xamc.compiler.cli` holds their options. Imported only when a command runs."""
