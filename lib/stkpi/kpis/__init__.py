"""The KPIs as data: the catalog (sql/catalog.yml), definitions as choices of its options, and SQL from them."""
