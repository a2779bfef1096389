"""Device profiles: one TOML file a board, and no code. `edgekit.profiles` reads them."""
