"""The steps of a bake, each of which runs or is skipped as the plan says."""
