"""Device profiles: one TOML file a board, and no code. `edgekit.plan.profiles` reads them."""
