"""Extensions of the webui: which commit of which repository, its files, what they need beside the base's packages."""
