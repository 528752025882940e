"""What a bake would do and why, and what earlier bakes of the same image have done."""
