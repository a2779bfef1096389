"""Options to plan: every decision before any toolchain starts."""
