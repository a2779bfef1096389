"""The stages of a conversion, as ``edgekit convert`` runs them."""
