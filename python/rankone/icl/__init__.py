"""In-context learning theory: linear self-attention, constructed learners, exact ensembles."""
