"""Where weights come from: one module a site, and what each site's answers mean."""
