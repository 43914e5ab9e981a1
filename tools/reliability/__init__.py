"""How xamc stands what happens to machines and what people feed it; results go to docs/reliability.md."""
